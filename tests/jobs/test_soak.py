from __future__ import annotations

from pathlib import Path

import pytest

from jobs.soak import too_steep
from jobs.soak_samples import AT, HOUR_S, RAYS_FILES, sample, slopes_an_hour
from jobs.soak_use import refused, told
from raybatch.config import Home


def test_growth_is_judged_after_the_warm_up_alone() -> None:
    """A process that doubles in its first quarter and then gains a MiB a minute."""
    samples = [
        {AT: 60.0 * minute, "scheduler MiB": 50.0 if minute < 10 else 100.0 + minute} for minute in range(41)
    ]

    assert slopes_an_hour(samples, warm_up=0.25)["scheduler MiB"] == pytest.approx(60.0)
    assert slopes_an_hour(samples, warm_up=0.0)["scheduler MiB"] > 90


def test_what_was_seen_once_has_no_slope() -> None:
    assert slopes_an_hour([{AT: 0.0, "files": 1.0}, {AT: HOUR_S, "files": 3.0, "chore MiB": 9.0}], 0.0) == {
        "files": pytest.approx(2.0)
    }


def test_only_a_role_that_lives_throughout_and_grows_too_fast_is_named() -> None:
    slopes = {"engine MiB": 31.0, "replica MiB": 33.0, "chore MiB": 500.0, "journal MiB": 500.0}

    (told_of,) = too_steep(slopes, growth_max=32.0)

    assert told_of == "replica grows by 33.0 MiB an hour, more than --growth-max=32"


def test_rays_own_files_are_counted_apart(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    (home.ledger / "journal").mkdir()
    (home.ledger / "journal" / "1.journal").write_bytes(b"x" * (1 << 20))
    (home.ledger / "ledger.duckdb").write_bytes(b"x" * (2 << 20))
    (tmp_path / "ray" / "logs").mkdir(parents=True)
    (tmp_path / "ray" / "logs" / "a.log").write_text("a")

    found = sample(home)

    assert (found["journal MiB"], found["ledger MiB"]) == (1.0, 2.0)
    assert (found["files"], found[RAYS_FILES]) == (2, 1)


def test_a_retried_batch_has_rows_that_fail_once_and_rows_that_fail_for_good() -> None:
    texts = [told(f"{row} of 7", row, "retried") for row in range(500)]

    assert sum("status=400" in text for text in texts) == refused(500) > 0
    assert sum("times=" in text for text in texts) > 0
    assert not any("[[" in told("1 of 7", row, "cancelled") for row in range(500))
