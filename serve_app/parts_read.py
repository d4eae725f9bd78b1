"""Reading a batch's files while compaction may take some of them away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from raybatch.actors.reads import BatchRows
from raybatch.errors import Corrupt
from serve_app.door import Door

T = TypeVar("T")


async def over_parts(door: Door, batch_id: str, read: Callable[[BatchRows], Awaitable[T]]) -> T:
    """``read`` of the batch's files, once more when they were others before all of them were open.

    Raises NotFound, and Corrupt naming the file when nothing but damage can be the reason.
    """
    rows: BatchRows = await door.scheduler.read("rows", door.tenant, batch_id)
    while True:
        try:
            return await read(rows)
        except Corrupt:
            now: BatchRows = await door.scheduler.read("rows", door.tenant, batch_id)
            if {part.part_id for part in now.parts} >= {part.part_id for part in rows.parts}:
                raise
            rows = now
