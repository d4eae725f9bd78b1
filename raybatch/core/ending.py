"""How a batch ends: with the file objects its rows add up to."""

from __future__ import annotations

from raybatch.core.changes import BatchEnded, Change, FileAdded
from raybatch.core.events import Now
from raybatch.core.model import Batch, File, Tally


def ended(batch: Batch, tally: Tally, now: Now) -> tuple[Change, ...]:
    """``tally``: of all rows, when every one is committed. There is never an empty file."""
    output = _file(batch, batch.output_file_id, "output", tally.output_bytes, now)
    error = _file(batch, batch.error_file_id, "error", tally.error_bytes, now)
    return (
        *((FileAdded(output),) if tally.completed else ()),
        *((FileAdded(error),) if tally.failed else ()),
        BatchEnded(batch.batch_id, now.wall),
    )


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
