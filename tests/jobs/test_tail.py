"""Engines in virtual time: what they do is what a step model prescribes, and the scheduler's part is real."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from jobs.tail import SCENARIOS, Sizes, ideal_s, measure, play, report
from jobs.virtual import Shape, VirtualCluster, straight_s

SHAPE = Shape(alpha_s=0.02, beta_s=0.0, concurrency=4)
SIZES = Sizes(
    engines=2, rows=600, shape=Shape(0.02, 0.0001, 8), median_tokens=20, spread=0.7, longest_tokens=80
)


def test_rows_that_run_at_once_take_as_long_as_the_longest() -> None:
    assert straight_s([SHAPE], [deque([1, 2, 3, 10])]) == pytest.approx(10 * 0.02)


def test_a_row_enters_when_another_one_ends() -> None:
    """Four at once: the fifth starts after the shortest."""
    assert straight_s([SHAPE], [deque([10, 10, 10, 2, 9])]) == pytest.approx(11 * 0.02)


def test_engines_may_share_one_queue() -> None:
    one = deque([5] * 8)
    assert straight_s([SHAPE, SHAPE], [one, one]) == pytest.approx(5 * 0.02)


def test_no_makespan_is_below_the_ideal_and_the_clairvoyant_comes_close() -> None:
    for name in SCENARIOS:
        case = play(name, SIZES, seed=1)
        others = (case.raybatch_s, case.one_queue_s, case.static_s)
        assert case.ideal_s <= case.longest_first_s * (1 + 1e-9)
        assert case.longest_first_s < min(others)


def test_the_scheduler_knows_no_length_and_still_balances() -> None:
    """A file of kinds, one after the other: equal pieces of it are unequal work."""
    case = play("kinds", SIZES, seed=1)
    assert case.over_static > 1.0
    assert case.raybatch_s < 1.1 * case.one_queue_s


def test_one_seed_is_one_result() -> None:
    assert play("uneven", SIZES, seed=3) == play("uneven", SIZES, seed=3)
    assert play("uneven", SIZES, seed=3) != play("uneven", SIZES, seed=4)


def test_the_longest_row_bounds_the_ideal() -> None:
    assert ideal_s([1000, 1], [SHAPE] * 8) == pytest.approx(1000 * SHAPE.step_s(1))


def test_batches_in_virtual_time_all_end_and_share_the_engine() -> None:
    cluster = VirtualCluster([replace(SHAPE, concurrency=16)])
    large, small = cluster.create([10] * 2_000), cluster.create([10] * 50)
    cluster.run()
    assert {batch.finished_rows for batch in cluster.state.batches.values()} == {2_000, 50}
    assert cluster.ended_s[small] < cluster.ended_s[large] / 4


def test_the_report_has_every_scenario() -> None:
    told = report(measure(SIZES, 1, lambda _: None), SIZES)
    assert told["arms"].keys() == SCENARIOS.keys()
    assert len(told["runs"]) == len(SCENARIOS)
    assert all(ratio.median > 0 for ratio in told["ratio"].values())
