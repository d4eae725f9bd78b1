"""What the daily sweep of a home removes: only what no ledger row names, and only when it is old."""

from __future__ import annotations

import os
import time
from pathlib import Path

from raybatch.actors.reads import Remembered
from raybatch.actors.sweep import ORPHAN_AGE_S, SteadyClock, kept, sweep
from raybatch.config import Home
from raybatch.core.model import Batch, File, PartFile

BATCH = Batch("batch_1", "default", "file-hidden", "/v1/chat/completions", "24h", 86_400.0, 1.0)


def _touch(path: Path, age_s: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_a_sweep_keeps_what_the_ledger_names_and_what_is_young(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    old, young = 2 * ORPHAN_AGE_S, 60.0
    part = PartFile("p", "results/batch_id=batch_1/p.parquet", 1, 1, "sha256:0")
    known = Remembered(
        files={"file-known": File("file-known", "default", "batch", "a", 1, 1.0)},
        batches={"batch_1": BATCH},
        parts={"batch_1": {"p": part}},
    )
    kept_paths = [
        _touch(home.files / "file-known", old),
        _touch(home.files / "file-hidden", old),  # deleted by its owner, needed by a batch
        _touch(home.files / "file-new", young),
        _touch(home.index_path("batch_1"), old),
        _touch(home.root / part.path, old),
        _touch(home.root / "results/batch_id=batch_1/reported-soon.parquet", young),
        _touch(home.scratch / "on-its-way.parquet", young),
        _touch(home.scratch / "socket-of-a-library", old),
    ]
    orphans = [
        _touch(home.files / "file-orphan", old),
        _touch(home.files / ".tmp-cut-off", old),
        _touch(home.scratch / "never-sent.parquet", old),
        _touch(home.index_path("batch_0"), old),
        _touch(home.root / "results/batch_id=batch_1/refused.parquet", old),
        _touch(home.root / "results/batch_id=batch_0/refused.parquet", old),
    ]

    sweep(home, kept(known), time.time())

    assert all(path.exists() for path in kept_paths)
    assert not any(path.exists() for path in orphans)
    assert not (home.root / "results/batch_id=batch_0").exists()


def test_a_wall_clock_that_jumped_is_not_believed_until_it_has_gone_steadily_again() -> None:
    clock = SteadyClock()
    looks = [(1000.0, 0.0), (1300.0, 300.0), (9e9, 600.0), (9e9 + 300, 900.0), (1900.5, 900.5)]
    assert [clock.steady_s(wall, mono) for wall, mono in looks] == [0.0, 300.0, 0.0, 300.0, 0.0]
    assert clock.steady_s(2500.5, 1500.5) == 600.0
