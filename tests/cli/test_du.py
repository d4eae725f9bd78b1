"""`raybatch du`: every byte under a home is of one kind, and what could be freed is told with how."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raybatch.actors.sweep import ORPHAN_AGE_S
from raybatch.cli.du import use
from raybatch.config import Home
from raybatch.core import changes as c
from raybatch.core.model import Batch, BatchStatus, File, PartFile
from raybatch.core.state import Image, State
from raybatch.ledger.durable import DurableMemory
from tests.cli.conftest import Run

RUNNING = Batch(
    "batch_1", "default", "file-a", "/v1/embeddings", "24h", 86_400.0, 1.0, BatchStatus.IN_PROGRESS
)
ENDED = replace(RUNNING, batch_id="batch_2", input_file_id="file-b", status=BatchStatus.COMPLETED)


def _part(batch_id: str, part_id: str, size_bytes: int, level: int) -> Image:
    path = f"results/batch_id={batch_id}/{part_id}.parquet"
    return Image("parts", part_id, PartFile(part_id, path, size_bytes, 1, "sha256:0", level), batch_id)


def _state() -> State:
    file = File("file-a", "default", "batch", "a.jsonl", 10, 1.0)
    state = State()
    state.load(
        (
            Image("files", "file-a", file),
            Image("files", "file-b", replace(file, file_id="file-b", size_bytes=20, deleted=True)),
            Image("files", "file-c", replace(file, file_id="file-c", size_bytes=40)),
            Image("batches", "batch_1", RUNNING),
            Image("batches", "batch_2", ENDED),
            _part("batch_1", "p", 100, 0),
            _part("batch_2", "r", 1000, 2),
        )
    )
    return state


@pytest.fixture
def filled(home: Home) -> Home:
    old = time.time() - 2 * ORPHAN_AGE_S
    for path, size_bytes, at in (
        ("files/file-a", 10, old),
        ("files/file-b", 20, old),
        ("files/file-c", 40, old),
        ("files/.tmp-cut-off", 3, old),
        ("files/.tmp-coming", 5, time.time()),
        ("batches/batch_2.index.parquet", 7, old),
        ("results/batch_id=batch_1/p.parquet", 100, old),
        ("results/batch_id=batch_1/refused.parquet", 13, old),
        ("results/batch_id=batch_2/r.parquet", 1000, old),
        ("results/batch_id=batch_0/gone.parquet", 17, old),
        ("tmp/0f.parquet", 19, old),
        ("tmp/socket-of-another", 1, old),
        ("ledger/journal/1.journal", 50, old),
        ("ledger/ledger.duckdb", 60, old),
        ("models/m/weights", 2000, old),
        ("logs/up.log", 70, old),
    ):
        _write(home.root / path, size_bytes, at)
    return home


def _write(path: Path, size_bytes: int, at: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size_bytes)
    os.utime(path, (at, at))


def test_every_byte_is_of_one_kind(filled: Home) -> None:
    used = use(filled, _state(), time.time())
    token_bytes = (filled.run / "admin_token").stat().st_size
    assert used.kinds == {
        "uploads": 70,
        "indexes": 7,
        "parts": 100,
        "runs": 1000,
        "journal": 50,
        "ledger": 60,
        "models": 2000,
        "logs": 70,
        "orphans": 3 + 13 + 17 + 19,
        "under way": 5,
        "other": 1 + token_bytes,
    }
    assert used.total_bytes == sum(used.kinds.values())


def test_batches_come_largest_first_with_what_deleting_them_frees(filled: Home) -> None:
    used = use(filled, _state(), time.time())
    assert [(one.batch_id, one.results_bytes, one.freed_bytes) for one in used.batches] == [
        ("batch_2", 1000, 1000 + 7 + 20),  # its owner deleted the input: it goes along
        ("batch_1", 100, 0),  # it still runs
    ]
    assert used.uploads_unused_bytes == 40


def test_the_command_reads_the_journal_while_another_process_has_the_ledger(
    raybatch: Run, home: Home
) -> None:
    memory = DurableMemory(home.ledger)
    state = memory.load()
    changes = (
        c.FileAdded(File("file-a", "default", "batch", "a.jsonl", 10, 1.0)),
        c.BatchCreated(replace(RUNNING, status=BatchStatus.FAILED)),
    )
    memory.remember(changes, tuple(image for change in changes for image in state.apply(change)), 1.0)
    told = json.loads(raybatch("du", "--json").stdout)
    assert [one["batch_id"] for one in told["batches"]] == ["batch_1"]
    assert told["kinds"]["journal"] > 0
    shown = raybatch("du")
    assert (shown.exit_code, "batch_1" in shown.stdout) == (0, True)
    memory.close()


def test_without_a_raybatch_it_says_so(raybatch: Run, home: Home) -> None:
    home.ledger.rmdir()
    done = raybatch("du")
    assert (done.exit_code, "no raybatch at" in done.stderr) == (1, True)
