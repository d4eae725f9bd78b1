"""When a batch will be done: equals share, higher priorities go first, and what varies is promised later."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybatch.core.estimate import BIN_S, DEVIATION_MIN, P90_DEVIATIONS, Doubt, time_for, time_left
from raybatch.core.model import Batch, BatchStatus, ModelRate, Tally

RATE = ModelRate("m", tokens_per_s=10.0, deviation=0.0, rows_per_s=1.0, measured_at=0.0)


def batch(batch_id: str = "batch_1", *, rows: int = 100, done: int = 0, **fields: Any) -> Batch:
    """Of ten expected tokens a row."""
    known: dict[str, Any] = {"status": BatchStatus.IN_PROGRESS, "model": "m"}
    return Batch(
        batch_id,
        "t",
        "file",
        "/v1/chat/completions",
        "24h",
        86_400.0,
        0.0,
        total=rows,
        expected_tokens=10 * rows,
        tally=Tally(done),
        **(known | fields),
    )


def p50_s(mine: Batch, *others: Batch) -> float:
    estimate = time_left(mine, (mine, *others), {"m": RATE})
    assert estimate is not None
    return estimate.p50_s


def test_alone_a_batch_takes_what_is_left_of_it() -> None:
    assert p50_s(batch()) == 100.0
    assert p50_s(batch(done=75)) == 25.0
    assert p50_s(batch(done=100)) == 0.0


def test_beside_its_equals_a_batch_waits_for_as_much_of_each_as_it_has_itself() -> None:
    small, large = batch(rows=10), batch("batch_2", rows=1_000)
    assert p50_s(small, large) == 20.0
    assert p50_s(large, small) == 1_010.0
    assert p50_s(small, large, batch("batch_3", rows=4)) == 24.0


def test_a_higher_priority_is_waited_for_in_full_and_a_lower_one_not_at_all() -> None:
    mine = batch(rows=10, priority=1)
    assert p50_s(mine, batch("batch_2", rows=500, priority=2)) == 510.0
    assert p50_s(mine, batch("batch_2", rows=500, priority=0)) == 10.0


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "other"},
        {"model": None},
        {"paused_at": 1.0},
        {"status": BatchStatus.VALIDATING},
        {"status": BatchStatus.CANCELLING},
        {"status": BatchStatus.COMPLETED},
    ],
)
def test_batches_that_do_not_compete_cost_no_time_and_have_no_estimate(fields: dict[str, Any]) -> None:
    assert p50_s(batch(), batch("batch_2", **fields)) == 100.0
    if fields != {"model": "other"}:
        assert time_left(batch(**fields), (), {"m": RATE}) is None


def test_nothing_is_promised_before_anything_was_measured() -> None:
    assert time_left(batch(), (), {}) is None
    assert time_left(batch(), (), {"m": ModelRate("m", 0.0, 0.0, 0.0, 0.0)}) is None


def band(rate_deviation: float, tokens: float) -> float:
    """How much later nine of ten finishes may be, as a share of the median."""
    estimate = time_for("m", tokens, 0, (), ModelRate("m", 10.0, rate_deviation, 1.0, 0.0))
    assert estimate is not None
    return estimate.p90_s / estimate.p50_s - 1


def test_the_band_widens_with_the_rates_deviation_and_narrows_over_a_long_time() -> None:
    tokens = 10.0 * BIN_S  # as long as one measurement
    assert band(0.0, tokens) == pytest.approx(P90_DEVIATIONS * DEVIATION_MIN)
    assert band(0.4, tokens) == pytest.approx(P90_DEVIATIONS * 0.4)
    assert band(0.4, 4 * tokens) == pytest.approx(P90_DEVIATIONS * 0.2)
    assert band(0.4, 1e9) == pytest.approx(P90_DEVIATIONS * DEVIATION_MIN)
    assert band(0.4, tokens / 100) == pytest.approx(P90_DEVIATIONS * 0.4)


def test_doubt_makes_the_late_guess_later_and_leaves_the_median() -> None:
    mine = batch()
    sure, unsure = (
        time_left(mine, (mine,), {"m": RATE}, doubts)
        for doubts in (None, {"m": Doubt(share=0.5, last_row_s=7.0), "other": Doubt(9.0, 9.0)})
    )
    assert sure is not None
    assert unsure is not None
    assert sure.p50_s == unsure.p50_s == 100.0
    spread = math.hypot(DEVIATION_MIN, 0.5)
    assert unsure.p90_s == pytest.approx(100.0 * (1 + P90_DEVIATIONS * spread) + 7.0)


@given(
    rows=st.lists(st.integers(1, 10_000), min_size=1, max_size=5),
    deviation=st.floats(0.0, 1.0),
    priority=st.integers(-3, 3),
)
def test_the_late_guess_is_never_earlier_and_nobody_ends_after_all_work_is_done(
    rows: list[int], deviation: float, priority: int
) -> None:
    batches = [batch(f"batch_{i}", rows=n, priority=priority * (i % 2)) for i, n in enumerate(rows)]
    rate = ModelRate("m", 10.0, deviation, 1.0, 0.0)
    estimates = [time_left(one, batches, {"m": rate}) for one in batches]
    assert all(one is not None and 0 <= one.p50_s <= one.p90_s for one in estimates)
    # as in any fair order, somebody is last: exactly when everything is done
    assert max(one.p50_s for one in estimates if one is not None) == pytest.approx(sum(rows))
