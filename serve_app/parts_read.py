"""Reading batches' files while compaction may take some of them away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from raybatch.actors.reads import BatchRows
from raybatch.errors import Corrupt
from serve_app.door import Door

T = TypeVar("T")


async def over_parts(door: Door, batch_id: str, read: Callable[[BatchRows], Awaitable[T]]) -> T:
    """``read`` of the batch's files, once more when they were others before all of them were open.

    Raises NotFound, and Corrupt naming the file when nothing but damage can be the reason.
    """
    return await over_all_parts(door, (batch_id,), lambda batches: read(batches[0]))


async def over_all_parts(
    door: Door, batch_ids: Sequence[str], read: Callable[[list[BatchRows]], Awaitable[T]]
) -> T:
    """As ``over_parts``, of several batches at once."""
    batches = await _rows(door, batch_ids)
    while True:
        try:
            return await read(batches)
        except Corrupt:
            now = await _rows(door, batch_ids)
            if _part_ids(now) >= _part_ids(batches):
                raise
            batches = now


async def _rows(door: Door, batch_ids: Sequence[str]) -> list[BatchRows]:
    return [await door.scheduler.read("rows", door.tenant, batch_id) for batch_id in batch_ids]


def _part_ids(batches: Sequence[BatchRows]) -> set[str]:
    return {part.part_id for rows in batches for part in rows.parts}
