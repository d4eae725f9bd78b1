"""The background chores of a batch, as plain functions over files. Each may be killed and run again."""

from __future__ import annotations

import time
import uuid
from itertools import groupby

from raybatch.actors.held_lease import slice_of
from raybatch.actors.intake import IntakeTerms, blocks, take_in_blocks
from raybatch.actors.read_ahead import ReadAhead
from raybatch.actors.request_rows import RequestRows
from raybatch.config import Home
from raybatch.core.commands import Lease
from raybatch.core.events import IntakeEnded, PartsCompacted, PartWritten
from raybatch.core.model import Batch, LineError, PartFile, ResultRow
from raybatch.crash_points import crash_point
from raybatch.storage.blobs import BlobStore
from raybatch.storage.compaction import compact
from raybatch.storage.parts import write_part
from raybatch.wire.result_line import Origin, Unanswered, unanswered_row

CLOSING_LEASES_PER_PART = 8  #: some 32,000 rows in memory at once


def intake(home: Home, batch: Batch, ahead: ReadAhead | None = None) -> IntakeEnded:
    """Check an upload line by line and write its index, unless ``ahead`` has it."""
    settings = home.load()
    blob = BlobStore(home.files).path(batch.input_file_id)
    if not blob.is_file():
        gone = LineError("invalid_request", f"No such File object: {batch.input_file_id}", "file_id", None)
        return IntakeEnded(batch.batch_id, 0, None, 0, (gone,))
    terms = IntakeTerms.of(settings, batch.endpoint, batch.validation)
    index_path = home.index_path(batch.batch_id)
    report = None if ahead is None else ahead.claim(terms, blob, index_path)
    if report is None:
        report = take_in_blocks(blocks(blob), index_path, terms)
    crash_point("intake.indexed")
    model = report.model
    if model is None and not report.spans:  # relaxed, and every line is bad: any engine can say so
        model = next(iter(settings.canonical().values()), None)
    return IntakeEnded(
        batch.batch_id, report.total, model, report.expected_tokens, report.errors, report.spans
    )


def closing(home: Home, code: str, leases: tuple[Lease, ...], chore: str) -> list[PartWritten]:
    """Write the error rows of requests that will not run."""
    reason = next(reason for reason in Unanswered if reason.value[0] == code)
    rows = RequestRows(home)
    written: list[PartWritten] = []
    for _, group in groupby(enumerate(leases), lambda pair: pair[0] // CLOSING_LEASES_PER_PART):
        by_lease = [(lease, _unanswered(rows, lease, reason, chore)) for _, lease in group]
        batch_id = by_lease[0][0].batch_id
        part = write_part(
            home.root,
            batch_id,
            f"part-{uuid.uuid4().hex}",
            [row for _, lease_rows in by_lease for row in lease_rows],
        )
        crash_point("closing.written")
        slices = tuple(slice_of(lease, lease_rows) for lease, lease_rows in by_lease)
        written.append(PartWritten(uuid.uuid4().hex, chore, batch_id, part, slices))
    return written


def compaction(home: Home, batch_id: str, parts: tuple[PartFile, ...]) -> PartsCompacted:
    """Merge parts into one, in input order."""
    merged = compact(home.root, batch_id, f"run-{uuid.uuid4().hex}", parts)
    crash_point("compaction.written")
    return PartsCompacted(batch_id, merged, tuple(part.part_id for part in parts))


def _unanswered(rows: RequestRows, lease: Lease, reason: Unanswered, chore: str) -> list[ResultRow]:
    now = time.time()
    return [
        unanswered_row(
            Origin(position, entry.index, entry.custom_id, lease.attempt, chore, now, now),
            reason,
            row_id=f"batch_req_{uuid.uuid4().hex}",
        )
        for position, entry in rows.entries(lease)
    ]
