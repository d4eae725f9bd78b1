"""A backup taken while a batch runs goes on as a home of its own; the ledger of many rows is made again."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.checker import Verdict, check
from jobs.echo_cluster import EchoCluster, make_cluster, until
from jobs.trial import Trial, requests
from raybatch.cli.main import app
from raybatch.config import Home
from raybatch.core import changes as c
from raybatch.core.model import Batch, File, PartSlice, ResultRow, Tally
from raybatch.core.state import State
from raybatch.ledger.durable import DurableMemory
from raybatch.storage.parts import write_part

ROWS = 300
MANY_ROWS = 200_000
PART_ROWS = 4_000
ENDED_MAX_S = 120.0


def raybatch(home: Home, *words: str) -> str:
    done = CliRunner().invoke(app, ["--home", str(home.root), *words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.cluster
def test_a_backup_of_a_running_home_is_restored_and_its_batch_ends_there(tmp_path: Path) -> None:
    cluster, upload = make_cluster(rows_per_s=60), requests(ROWS)
    try:
        cluster.up()
        trial = Trial(cluster, upload)
        trial.wait_committed(ROWS // 4)
        raybatch(cluster.home, "backup", str(tmp_path / "copy"))
        assert shown(cluster, trial)["status"] == "in_progress"
        cluster.kill_everything()
    finally:
        cluster.close()
    again = make_cluster(rows_per_s=1000)
    try:
        raybatch(again.home, "restore", str(tmp_path / "copy"))
        raybatch(again.home, "rebuild")
        again.up()
        until(lambda: shown(again, trial)["status"] == "completed", ENDED_MAX_S, "the batch has not ended")
        batch = shown(again, trial)
        output, error = (again.content(batch[f"{kind}_file_id"]) for kind in ("output", "error"))
        assert check(upload, batch, output, error, again.stored(trial.batch_id)) == Verdict()
    finally:
        again.close()


def shown(cluster: EchoCluster, trial: Trial) -> dict[str, Any]:
    found: dict[str, Any] = cluster.get(f"/v1/batches/{trial.batch_id}")
    return found


@pytest.mark.slow
def test_a_ledger_of_many_rows_is_made_again(tmp_path: Path) -> None:
    """Prints how long it took; a machine's speed is not asserted."""
    home = Home(tmp_path)
    home.make()
    many_rows(home)
    (home.ledger / "ledger.duckdb").unlink()
    began = time.perf_counter()
    said = raybatch(home, "rebuild")
    print(f"\nrebuild of {MANY_ROWS:,} rows: {time.perf_counter() - began:.1f} s")
    assert "every file checked" in said


def many_rows(home: Home) -> None:
    """An ended batch in parts as engines write them."""
    line = b'{"id":"row","custom_id":"r","response":{"status_code":200,"body":{"text":"echo: hello"}}}'
    row = ResultRow(
        *(0, 0, "r", 200, None, None, "echo", "echo: hello", "stop", 5, 4, 0, line, 1, "engine-1", 1.0, 2.0)
    )
    (home.files / "file-1").write_bytes(b"{}\n")
    file = File("file-1", "default", "batch", "in.jsonl", 3, 1.0)
    batch = Batch("batch_1", "default", "file-1", "/v1/chat/completions", "24h", 86_400.0, 1.0)
    with closing(DurableMemory(home.ledger)) as memory:
        state = memory.load()
        remember(memory, state, c.FileAdded(file), c.BatchCreated(batch))
        remember(memory, state, c.BatchValidated("batch_1", MANY_ROWS, "echo", MANY_ROWS, 2.0))
        for token, first in enumerate(range(0, MANY_ROWS, PART_ROWS), start=1):
            rows = [replace(row, index=i, position=i) for i in range(first, first + PART_ROWS)]
            part = write_part(home.root, "batch_1", f"p{token}", rows)
            piece = PartSlice(token, token, first, (1 << PART_ROWS) - 1, Tally(PART_ROWS))
            lease = c.LeaseGranted(token, "batch_1", first, PART_ROWS, token, "engine-1")
            remember(memory, state, lease, c.PartCommitted("batch_1", part, (piece,)))
        remember(memory, state, c.BatchEnded("batch_1", 3.0))


def remember(memory: DurableMemory, state: State, *changes: c.DurableChange) -> None:
    memory.remember(changes, tuple(image for change in changes for image in state.apply(change)), 3.0)
