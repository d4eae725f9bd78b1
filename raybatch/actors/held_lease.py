"""One lease as its holder sees it: rows that wait, run, are finished, are committed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from raybatch.core.commands import Lease
from raybatch.core.model import PartSlice, ResultRow, Tally, Usage
from raybatch.core.rows import bitmap_of


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A request ready to run, or one that intake refused."""

    position: int
    index: int
    custom_id: str | None
    body: bytes
    refusal: tuple[str, str, int] | None = None  #: code, message, physical line: the engine is not asked
    limit_tokens: int = 0  #: of its answer, all choices together


@dataclass(slots=True)
class HeldLease:
    lease: Lease
    waiting: deque[RequestRow] = field(default_factory=deque)
    running: int = 0
    finished: list[ResultRow] = field(default_factory=list)  #: not yet in a part
    writing: int = 0  #: rows in a part that has no verdict yet
    fallen: bool = False  #: some of its rows were in flight when the engine died: held till that is told
    dropped: bool = False  #: no longer ours, or its batch was cancelled: what is finished is still offered

    @property
    def unfinished_rows(self) -> int:
        return len(self.waiting) + self.running

    @property
    def idle(self) -> bool:
        """No row waits or runs: what is finished can be committed without waiting for more."""
        return not self.waiting and not self.running

    @property
    def settled(self) -> bool:
        return self.idle and not self.finished and not self.writing and not self.fallen


def slice_of(lease: Lease, rows: list[ResultRow]) -> PartSlice:
    return PartSlice(
        chunk_id=lease.chunk_id,
        token=lease.token,
        first=lease.first,
        rows=bitmap_of(row.position - lease.first for row in rows),
        tally=tally_of(rows),
    )


def tally_of(rows: list[ResultRow]) -> Tally:
    """Sizes are of the JSONL lines with their newlines."""
    completed = [row for row in rows if row.completed]
    failed = [row for row in rows if not row.completed]
    return Tally(
        completed=len(completed),
        failed=len(failed),
        output_bytes=sum(len(row.line) + 1 for row in completed),
        error_bytes=sum(len(row.line) + 1 for row in failed),
        usage=Usage(
            sum(row.prompt_tokens for row in rows),
            sum(row.completion_tokens for row in rows),
            sum(row.cached_tokens for row in rows),
        ),
    )
