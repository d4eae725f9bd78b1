"""One suite for every ledger: what goes in comes out, and loading what was committed is having applied it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raybatch.core.changes import BatchCancelling, BatchCreated, BatchDeleted, BatchFailed
from raybatch.core.model import (
    Batch,
    BatchStatus,
    Chunk,
    ChunkState,
    File,
    LineError,
    ModelSpan,
    PartFile,
    Tally,
    Usage,
    Validation,
)
from raybatch.core.state import Image, State
from raybatch.ledger.contract import Ledger
from raybatch.ledger.duckdb_ledger import DuckDBLedger
from raybatch.ledger.memory import MemoryLedger
from tests.ledger.remembered import durable
from tests.simulation.world import World

Reopen = Callable[[], Ledger]

NAUGHTY = "Ω≈ç√ 'quoted\" \\ \n\t\x00 👩‍👩‍👧 ‮ ; DROP TABLE files; -- \U0010ffff"
FILE = File("file_1", "t", "batch", "in.jsonl", 0, 0.0)
BATCH = Batch("batch_1", "t", "file_1", "/v1/embeddings", "24h", 86_400.0, 1_700_000_000.123456)
CHUNK = Chunk(1, "batch_1", 0, 4096, ChunkState.LEASED, 1)
PART = PartFile("p1", "results/p1.parquet", 1, 1, "sha256:0")


@pytest.fixture(params=["memory", "duckdb"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Close the ledger and open it again; the first call opens it."""
    memory = MemoryLedger()
    opened: list[Ledger] = []

    def open_again() -> Ledger:
        for ledger in opened:
            ledger.close()
        opened[:] = [memory if request.param == "memory" else DuckDBLedger(tmp_path / "ledger.duckdb")]
        return opened[0]

    yield open_again
    for ledger in opened:
        ledger.close()


def live(ledger: Ledger) -> dict[tuple[str, str | int], Image]:
    """By table and key. Completed chunks need not come back."""
    images = ledger.load().images
    assert len(images) == len({(image.table, image.key) for image in images})
    return {
        (image.table, image.key): image
        for image in images
        if not (isinstance(image.entity, Chunk) and image.entity.state is ChunkState.COMPLETED)
    }


ENTITIES = [
    Image("files", "file_1", FILE),
    Image("files", "file_1", replace(FILE, filename=NAUGHTY, sha256="ab" * 32, deleted=True)),
    Image("files", "file_1", replace(FILE, size_bytes=2**53 + 1, batch_id="batch_1", part_kind="output")),
    Image("files", NAUGHTY, replace(FILE, file_id=NAUGHTY, filename="")),
    Image("batches", "batch_1", BATCH),
    Image("batches", "batch_1", replace(BATCH, metadata={})),
    Image("batches", "batch_1", replace(BATCH, spans=(ModelSpan(NAUGHTY, 0, 2**40, 2**50, 7, 5),) * 2)),
    Image("batches", "batch_1", replace(BATCH, validation=Validation.RELAXED)),
    Image("batches", "batch_1", replace(BATCH, metadata={NAUGHTY: NAUGHTY, "": "null"}, model=NAUGHTY)),
    Image("batches", "batch_1", replace(BATCH, status=BatchStatus.FAILED, failed_at=1e-9, priority=-100)),
    Image("batches", "batch_1", replace(BATCH, errors=(LineError("c", NAUGHTY, None, None),) * 2)),
    Image("batches", "batch_1", replace(BATCH, errors=(LineError("c", "", "p", 2**40),), idempotency_key="")),
    Image("batches", "batch_1", replace(BATCH, tally=Tally(1, 2, 2**40, 4, Usage(5, 6, 7)), total=2**40)),
    Image(
        "batches",
        "batch_1",
        replace(
            BATCH,
            in_progress_at=1.5,
            finalizing_at=2.5,
            completed_at=3.5,
            expired_at=4.5,
            cancelling_at=5.5,
            cancelled_at=0.0,
        ),
    ),
    Image("chunks", 1, CHUNK),
    Image("chunks", 1, replace(CHUNK, covered=(1 << 4096) - 2, token=2**62, engine_id=NAUGHTY)),
    Image("chunks", 2**40, replace(CHUNK, chunk_id=2**40, state=ChunkState.AVAILABLE, attempt=70_000)),
    Image("parts", "p1", PART, "batch_1"),
    Image("parts", "p1", replace(PART, masked=(0, 7, 2**40), level=3), "batch_1"),
    Image("counters", "next_token", 2**62),
]


@pytest.mark.parametrize("image", ENTITIES, ids=lambda image: image.table)
def test_an_entity_comes_back_as_it_went_in(reopen: Reopen, image: Image) -> None:
    reopen().commit(1, (image,))
    assert live(reopen()) == {(image.table, image.key): image}


def test_an_empty_ledger_is_at_commit_zero_and_holds_nothing(reopen: Reopen) -> None:
    remembered = reopen().load()
    assert (remembered.seq, remembered.images) == (0, ())


def test_the_last_image_of_a_key_wins_within_a_commit_and_across_commits(reopen: Reopen) -> None:
    one, two, three = (Image("files", "file_1", replace(FILE, size_bytes=size)) for size in (1, 2, 3))
    ledger = reopen()
    ledger.commit(1, (one, two))
    assert live(ledger) == {("files", "file_1"): two}
    ledger.commit(2, (Image("files", "file_1", None), three))
    assert live(reopen()) == {("files", "file_1"): three}


def test_what_is_gone_stays_gone_and_the_rest_stays(reopen: Reopen) -> None:
    other = Image("parts", "p2", replace(PART, part_id="p2"), "batch_1")
    ledger = reopen()
    ledger.commit(1, (Image("files", "file_1", FILE), Image("parts", "p1", PART, "batch_1"), other))
    ledger.commit(2, (Image("files", "file_1", None), Image("parts", "p1", None, "batch_1")))
    ledger.commit(3, (Image("files", "file_never", None),))
    assert live(reopen()) == {("parts", "p2"): other}


def test_the_same_or_an_earlier_commit_again_changes_nothing(reopen: Reopen) -> None:
    first, second = Image("files", "file_1", FILE), Image("files", "file_1", replace(FILE, deleted=True))
    ledger = reopen()
    ledger.commit(1, (first,))
    ledger.commit(2, (second,))
    for seq in (1, 2):
        ledger.commit(seq, (first,))
    ledger = reopen()
    ledger.commit(2, (first,))
    assert (ledger.load().seq, live(ledger)) == (2, {("files", "file_1"): second})


def test_a_completed_chunk_is_not_live_any_more(reopen: Reopen) -> None:
    ledger = reopen()
    ledger.commit(1, (Image("chunks", 1, CHUNK),))
    ledger.commit(2, (Image("chunks", 1, replace(CHUNK, state=ChunkState.COMPLETED)),))
    assert live(ledger) == {}


def test_batches_come_back_in_the_order_they_came_whatever_the_clock_said(reopen: Reopen) -> None:
    instants = (50.0, 50.0, 9.0, 50.0)  # two of one instant; then the clock is set back, and forth again
    named = zip("dbca", instants, strict=True)
    created = [replace(BATCH, batch_id=f"batch_{name}", created_at=at) for name, at in named]
    state, ledger = State(), reopen()
    for seq, batch in enumerate(created, start=1):
        ledger.commit(seq, state.apply(BatchCreated(batch)))
    ledger.commit(5, state.apply(BatchCancelling("batch_b", 60.0)))
    ledger.commit(6, state.apply(BatchFailed("batch_d", (), 61.0)))
    ledger.commit(7, state.apply(BatchDeleted("batch_d")))
    again = loaded(reopen())
    assert list(again.batches) == list(state.batches) == ["batch_b", "batch_c", "batch_a"]
    assert durable(again) == durable(state)


@pytest.mark.parametrize("seed", range(5))
def test_loading_what_was_committed_equals_having_applied_it(reopen: Reopen, seed: int) -> None:
    world = World(seed)
    world.run(700)
    world.settle()
    state = State()
    for seq, (changes, images) in enumerate(world.history, start=1):
        if seq == 1 or seq % 40 == 0:
            ledger = reopen()
        ledger.commit(seq, images)
        assert tuple(image for change in changes for image in state.apply(change)) == images
        if seq % 10 == 0 or seq == len(world.history):
            assert durable(loaded(ledger)) == durable(state), f"seed {seed}, commit {seq}"
    assert durable(state) == durable(world.state)


def loaded(ledger: Ledger) -> State:
    state = State()
    state.load(ledger.load().images)
    return state
