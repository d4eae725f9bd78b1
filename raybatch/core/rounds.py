"""Rounds of a batch, and which rows count.

A retry starts a new round, and the rows it runs again no longer count from then on.
Files stay as they are. Those of an earlier round go on showing what they showed, for clients that keep their
ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from raybatch.core.lifecycle import BatchMove, next_status
from raybatch.core.model import Batch, PartFile, Redrive, RowSpan, Tally
from raybatch.core.rows import offsets_of
from raybatch.core.spans import finished


def reopened(
    batch: Batch, spans: tuple[RowSpan, ...], tally: Tally, output_file_id: str, error_file_id: str
) -> Batch:
    """The batch in its next round. ``spans``: the rows that no longer count; ``tally``: theirs."""
    return replace(
        batch,
        status=next_status(batch.batch_id, batch.status, BatchMove.REOPEN),
        round=batch.round + 1,
        tally=batch.tally - tally,
        spans=finished(batch.spans, ((span.first, -span.rows.bit_count()) for span in spans)),
        output_file_id=output_file_id,
        error_file_id=error_file_id,
        finalizing_at=None,
        completed_at=None,
        expired_at=None,
        cancelling_at=None,
        cancelled_at=None,
    )


def visible_parts(
    parts: Iterable[PartFile], redrives: Iterable[Redrive], round_: int
) -> tuple[PartFile, ...]:
    """The parts as of a round, with every position masked that a later one ran again."""
    drives = tuple(redrives)
    hidden: dict[int, tuple[int, ...]] = {}  # by the round a part was written in
    shown = []
    for part in parts:
        if part.round > round_:
            continue
        if part.round not in hidden:
            hidden[part.round] = _positions(drive for drive in drives if part.round < drive.round <= round_)
        mask = (*part.masked, *hidden[part.round]) if part.masked else hidden[part.round]
        shown.append(replace(part, masked=mask) if mask else part)
    return tuple(shown)


def _positions(redrives: Iterable[Redrive]) -> tuple[int, ...]:
    return tuple(
        span.first + offset for drive in redrives for span in drive.spans for offset in offsets_of(span.rows)
    )
