"""What counts as a hang, and how large a window is."""

from __future__ import annotations

import pytest

from raybatch.actors.watchdog import Watchdog
from raybatch.actors.window_size import WindowSize
from raybatch.engine.contract import Progress


def progress(steps: int = 0, *, running: int = 8, waiting: int = 0) -> Progress:
    return Progress(steps, 0, 10 * steps, running, waiting, 0.0)


class Watch:
    """Looks once a second."""

    def __init__(self) -> None:
        self.watchdog = Watchdog(60.0)
        self.mono = 100.0

    def look(self, steps: int, seconds: int = 1, *, rows: int = 8) -> float | None:
        """What the last of so many looks, a second apart, says of counters that stand at ``steps``."""
        said = None
        for _ in range(seconds):
            self.mono += 1.0
            said = self.watchdog.stalled_s(progress(steps), rows, self.mono)
        return said


def test_counters_that_stand_still_while_rows_are_in_flight_are_a_hang() -> None:
    watch = Watch()
    assert watch.look(1, 61) is None
    assert watch.look(1) == 61.0


def test_an_engine_with_nothing_to_do_may_stand_still_for_ever() -> None:
    watch = Watch()
    watch.look(1)
    assert watch.look(1, 10_000, rows=0) is None
    assert watch.look(1, 60) is None
    assert watch.look(1) == 61.0


def test_the_clock_starts_anew_with_every_step() -> None:
    watch = Watch()
    for step in range(1, 10):
        assert watch.look(step, 50) is None


def test_an_engine_of_long_steps_gets_twenty_of_them() -> None:
    watch = Watch()
    watch.look(1, 30)  # a prefill of 30 s
    watch.look(2)
    assert watch.watchdog.limit_s == 600.0
    assert watch.look(2, 600) is None
    assert watch.look(2) == 601.0


def test_time_in_which_nobody_looked_is_neither_a_hang_nor_a_long_step() -> None:
    watch = Watch()
    watch.look(1)
    watch.mono += 500.0  # the process itself was stopped
    assert watch.look(1) is None
    watch.mono += 500.0
    watch.look(2)
    assert watch.watchdog.limit_s == 60.0


def test_the_window_shrinks_to_what_the_engine_runs_and_grows_again_once_nothing_waits() -> None:
    size = WindowSize(72)
    assert size.rows(1.0) == 72
    size.note(progress(running=64, waiting=8), 72)
    assert size.rows(1.0) == 72  # as many as it runs at once, and a few that follow
    for running in (18, 20, 19, 20, 18, 20, 19, 20, 18, 20):
        assert size.rows(1.0) == 72
        size.note(progress(running=running, waiting=72 - running), 72)
    assert size.rows(1.0) == 28
    size.note(progress(running=28, waiting=0), 28)
    assert size.rows(1.0) == 32
    for _ in range(20):
        size.note(progress(running=60, waiting=0), size.rows(1.0))
    assert size.rows(1.0) == 72


def test_rows_that_have_just_come_for_many_that_ended_at_once_do_not_shrink_the_window() -> None:
    size = WindowSize(72)
    for _ in range(50):
        size.note(progress(running=64, waiting=8), 72)
        for _ in range(9):  # nine looks in a row happen to meet it
            size.note(progress(running=7, waiting=65), 72)
        assert size.rows(1.0) == 72


def test_rows_that_end_together_are_followed_by_as_many_that_stand_ready() -> None:
    size = WindowSize(72)
    for _ in range(8):
        size.note(progress(running=8, waiting=0), size.rows(1.0))
    assert size.rows(1.0) == 72 + 64
    assert size.rows(0.5) == 36
    for _ in range(60):
        size.note(progress(running=64, waiting=size.rows(1.0) - 64), size.rows(1.0))
    assert 72 < size.rows(1.0) < 72 + 64
    for _ in range(100):
        size.note(progress(running=64, waiting=8), size.rows(1.0))
    assert size.rows(1.0) == 72


def test_empty_places_of_a_window_that_is_not_full_are_the_last_rows_of_a_batch() -> None:
    size = WindowSize(72)
    for _ in range(8):
        size.note(progress(running=8, waiting=0), 20)
    assert size.rows(1.0) == 72


@pytest.mark.parametrize(("share", "rows"), [(1.0, 72), (0.5, 36), (0.001, 1), (0.0, 0)])
def test_a_share_of_the_window_is_never_less_than_a_row_unless_it_is_nothing(share: float, rows: int) -> None:
    assert WindowSize(72).rows(share) == rows
