"""How a batch ends: in which status, and with the file objects its rows add up to."""

from __future__ import annotations

from dataclasses import replace

from raybatch.core.changes import BatchEnded, Change, FileAdded
from raybatch.core.events import Now
from raybatch.core.lifecycle import BatchMove, next_status
from raybatch.core.model import Batch, BatchStatus, File, Tally
from raybatch.errors import IllegalMove


def ended(batch: Batch, tally: Tally, now: Now) -> tuple[Change, ...]:
    """``tally``: of all rows, when every one is committed. There is never an empty file."""
    output = _file(batch, batch.output_file_id, "output", tally.output_bytes, now)
    error = _file(batch, batch.error_file_id, "error", tally.error_bytes, now)
    return (
        *((FileAdded(output),) if tally.completed else ()),
        *((FileAdded(error),) if tally.failed else ()),
        BatchEnded(batch.batch_id, now.wall),
    )


def at_end(batch: Batch, at: float) -> Batch:
    """The batch with every row committed. Raises IllegalMove when one is not."""
    if batch.finished_rows != batch.total:
        raise IllegalMove(
            f"batch {batch.batch_id} has {batch.finished_rows} of {batch.total} rows: it cannot end"
        )
    if batch.status is BatchStatus.CANCELLING:
        return replace(
            batch, status=next_status(batch.batch_id, batch.status, BatchMove.CLOSE), cancelled_at=at
        )
    if batch.status is BatchStatus.FINALIZING:
        return replace(
            batch, status=next_status(batch.batch_id, batch.status, BatchMove.EXPIRE), expired_at=at
        )
    finalizing = next_status(batch.batch_id, batch.status, BatchMove.FINALIZE)
    status = next_status(batch.batch_id, finalizing, BatchMove.COMPLETE)
    return replace(batch, status=status, finalizing_at=at, completed_at=at)


def _file(batch: Batch, file_id: str, kind: str, size_bytes: int, now: Now) -> File:
    return File(
        file_id=file_id,
        tenant=batch.tenant,
        purpose="batch_output",
        filename=f"{batch.batch_id}_{kind}.jsonl",
        size_bytes=size_bytes,
        created_at=now.wall,
        batch_id=batch.batch_id,
        part_kind=kind,
        round=batch.round,
        expires_at=None if batch.output_expires_after_s is None else now.wall + batch.output_expires_after_s,
    )
