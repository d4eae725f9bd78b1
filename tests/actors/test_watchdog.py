"""What counts as a hang, and how large a window is."""

from __future__ import annotations

import pytest

from raybatch.actors.watchdog import Watchdog
from raybatch.actors.window_size import WindowSize
from raybatch.engine.contract import Progress


def progress(steps: int = 0, *, running: int = 8, waiting: int = 0) -> Progress:
    return Progress(steps, 0, 10 * steps, running, waiting, 0.0)


def test_counters_that_stand_still_while_rows_are_in_flight_are_a_hang() -> None:
    watchdog = Watchdog(60.0)
    assert watchdog.stalled_s(progress(1), 8, 100.0) is None
    assert watchdog.stalled_s(progress(1), 8, 160.0) is None
    assert watchdog.stalled_s(progress(1), 8, 161.0) == 61.0


def test_an_engine_with_nothing_to_do_may_stand_still_for_ever() -> None:
    watchdog = Watchdog(60.0)
    watchdog.stalled_s(progress(1), 8, 100.0)
    assert watchdog.stalled_s(progress(1), 0, 100_000.0) is None
    assert watchdog.stalled_s(progress(1), 8, 100_001.0) is None
    assert watchdog.stalled_s(progress(1), 8, 100_061.0) == 61.0


def test_the_clock_starts_anew_with_every_step() -> None:
    watchdog = Watchdog(60.0)
    for step in range(1, 10):
        assert watchdog.stalled_s(progress(step), 8, 50.0 * step) is None


def test_an_engine_of_long_steps_gets_twenty_of_them() -> None:
    watchdog = Watchdog(60.0)
    watchdog.stalled_s(progress(1), 8, 100.0)
    watchdog.stalled_s(progress(2), 8, 130.0)  # a prefill of 30 s
    assert watchdog.limit_s == 600.0
    assert watchdog.stalled_s(progress(2), 8, 730.0) is None
    assert watchdog.stalled_s(progress(2), 8, 731.0) == 601.0


def test_the_window_shrinks_to_what_the_engine_runs_and_grows_again_once_nothing_waits() -> None:
    size = WindowSize(72)
    assert size.rows(1.0) == 72
    size.note(progress(running=64, waiting=8), 72)
    assert size.rows(1.0) == 72  # as many as it runs at once, and a few that follow
    size.note(progress(running=20, waiting=52), 72)
    assert size.rows(1.0) == 28
    size.note(progress(running=28, waiting=0), 28)
    assert size.rows(1.0) == 32
    for _ in range(20):
        size.note(progress(running=60, waiting=0), size.rows(1.0))
    assert size.rows(1.0) == 72


@pytest.mark.parametrize(("share", "rows"), [(1.0, 72), (0.5, 36), (0.001, 1), (0.0, 0)])
def test_a_share_of_the_window_is_never_less_than_a_row_unless_it_is_nothing(share: float, rows: int) -> None:
    assert WindowSize(72).rows(share) == rows
