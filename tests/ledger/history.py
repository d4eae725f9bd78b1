"""Commits to remember: a short history of one batch, tick by tick, the same every time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from raybatch.core import changes as c
from raybatch.core.model import Batch, File, PartFile, PartSlice, Tally
from raybatch.core.state import Image, State
from raybatch.ledger.durable import DurableMemory
from raybatch.ledger.journal import Journal

Changes = tuple[c.DurableChange, ...]

BATCH = Batch("batch_1", "t", "file_1", "/v1/embeddings", "24h", 86_400.0, 1.0, metadata={"ключ": "😀\n"})


def ticks() -> Iterator[Changes]:
    """Without end; tick ``n`` commits the part ``p<n>`` of one chunk of four rows."""
    yield (c.FileAdded(File("file_1", "t", "batch", "in.jsonl", 1, 1.0)), c.BatchCreated(BATCH))
    yield (c.BatchValidated("batch_1", 1 << 40, "m", 7, 2.0),)
    token = 0
    while True:
        token += 1
        piece = PartSlice(token, token, 4 * (token - 1), 0b1111, Tally(4, 0, 40, 0))
        yield (
            c.LeaseGranted(token, "batch_1", piece.first, 4, token, "e1"),
            c.PartCommitted("batch_1", PartFile(f"p{token}", f"p{token}", 1, 4, "sha256:0"), (piece,)),
        )


def remember(memory: DurableMemory, state: State, changes: Changes) -> None:
    memory.remember(changes, applied(state, changes), 1.0)
    memory.keep_house(state, 1.0)


def applied(state: State, changes: Changes) -> tuple[Image, ...]:
    return tuple(image for change in changes for image in state.apply(change))


def state_after(count: int) -> State:
    state = State()
    for _, changes in zip(range(count), ticks(), strict=False):
        applied(state, changes)
    return state


def journal_of(directory: Path, count: int, segment_bytes_max: int = 64 << 20) -> list[int]:
    """Write ``count`` ticks; the size of the open segment after each of them, its snapshot's first."""
    journal = Journal(directory, segment_bytes_max)
    journal.settle(0)
    state = State()
    journal.start_segment(0, state.images(), 0.0)
    ends = [newest(directory).stat().st_size]
    for seq, changes in zip(range(1, count + 1), ticks(), strict=False):
        journal.append(seq, changes, float(seq))
        applied(state, changes)
        ends.append(newest(directory).stat().st_size)
        if journal.wants_segment:
            journal.start_segment(seq, state.images(), float(seq))
    journal.close()
    return ends


def tick(number: int) -> Changes:
    return next(changes for seq, changes in enumerate(ticks(), start=1) if seq == number)


def newest(directory: Path) -> Path:
    return max(directory.glob("*.journal"))


def replayed(directory: Path) -> State:
    state = State()
    for record in Journal(directory).replay():
        if record.snapshot is not None:
            state.load(record.snapshot)
        applied(state, record.changes)
    return state
