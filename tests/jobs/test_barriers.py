"""How full an engine was, from when its rows began and ended."""

from __future__ import annotations

import pytest

from jobs.barriers import occupancy


def test_an_engine_that_is_always_full_is_full() -> None:
    assert occupancy([(0.0, 2.0), (0.0, 1.0), (1.0, 2.0), (2.0, 3.0)], most=2) == pytest.approx(1.0)


def test_a_place_that_stays_empty_is_seen() -> None:
    """From 1 to 2 one of two places is empty."""
    assert occupancy([(0.0, 2.0), (0.0, 1.0), (2.0, 3.0), (2.0, 4.0)], most=2) == pytest.approx(0.75)


def test_rows_that_wait_within_the_engine_fill_no_place() -> None:
    times = [(0.0, 1.0), (0.0, 2.0), (0.0, 3.0), (2.0, 4.0)]
    assert occupancy(times, most=2) == pytest.approx(1.0)


def test_the_tail_does_not_count() -> None:
    """Once no row is left to begin, nothing could fill the engine."""
    assert occupancy([(0.0, 1.0), (0.0, 1.0), (1.0, 9.0), (1.0, 2.0)], most=2) == pytest.approx(1.0)
