"""Rates of batches and models, from what was committed and when."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from typing import Any

import pytest

from raybatch.actors.pace import KNOWN_S, NEWEST_WEIGHT, SPAN_S, Pace
from raybatch.core.estimate import BIN_S, time_left
from raybatch.core.model import Batch, BatchStatus, ModelRate, ModelSpan, Tally, Usage

BATCH = Batch(
    "batch_1",
    "t",
    "file",
    "/v1/chat/completions",
    "24h",
    86_400.0,
    0.0,
    status=BatchStatus.IN_PROGRESS,
    model="m",
    total=1_000,
    expected_tokens=50_000,
)


def with_rows(rows: int, batch: Batch = BATCH, **fields: Any) -> Batch:
    """So many rows finished, of three completion tokens each."""
    return replace(batch, tally=Tally(rows, 0, usage=Usage(0, 3 * rows, 0)), **fields)


class Looks:
    """Somebody who looks once a second and remembers the rates."""

    def __init__(self) -> None:
        self.pace = Pace()
        self.now_mono = 0.5
        self.rates: dict[str, ModelRate] = {}
        self.running = 1

    def look(self, *active: Batch, ended: tuple[Batch, ...] = (), busy: bool = True) -> None:
        self.now_mono += 1.0
        measured = self.pace.note(
            active, ended, {"m": self.running} if busy else {}, self.rates, self.now_mono
        )
        self.rates |= {rate.model: rate for rate in measured}

    def work(self, batch: Batch, rows_per_s: int, seconds: float) -> Batch:
        for _ in range(round(seconds)):
            batch = with_rows(batch.tally.completed + rows_per_s, batch)
            self.look(batch)
        return batch


@pytest.fixture
def looks() -> Looks:
    looks = Looks()
    looks.look(BATCH)
    return looks


# -- batches -----------------------------------------------------------------------------------------------


def test_a_batchs_pace_is_that_of_the_last_half_minute(looks: Looks) -> None:
    assert looks.pace.batch(BATCH).rows_per_s == 0.0
    batch = looks.work(BATCH, 4, 10)
    assert (looks.pace.batch(batch).rows_per_s, looks.pace.batch(batch).tokens_per_s) == (4.0, 12.0)
    batch = looks.work(batch, 1, SPAN_S + 1)
    assert (looks.pace.batch(batch).rows_per_s, looks.pace.batch(batch).tokens_per_s) == (1.0, 3.0)


def test_a_batch_that_has_ended_or_was_never_seen_has_no_pace(looks: Looks) -> None:
    batch = looks.work(BATCH, 4, 5)
    assert looks.pace.batch(replace(batch, status=BatchStatus.COMPLETED)).rows_per_s == 0.0
    assert looks.pace.batch(replace(batch, batch_id="batch_2")).rows_per_s == 0.0


def test_a_batch_retried_between_two_looks_does_not_run_backwards(looks: Looks) -> None:
    batch = looks.work(BATCH, 100, 5)
    again = with_rows(400, batch, round=2)
    looks.look(again)
    assert looks.pace.batch(again).rows_per_s == 0.0
    again = looks.work(again, 2, 3)
    assert looks.pace.batch(again).rows_per_s == 2.0


# -- models ------------------------------------------------------------------------------------------------


def test_a_model_is_measured_over_its_busy_time_in_expected_tokens(looks: Looks) -> None:
    looks.work(BATCH, 4, BIN_S - 1)
    assert looks.rates == {}
    looks.work(with_rows(4 * round(BIN_S - 1)), 4, 1)
    rate = looks.rates["m"]
    assert (rate.rows_per_s, rate.tokens_per_s, rate.deviation) == (4.0, 200.0, 0.0)  # 50 a row


def test_idle_time_costs_no_pace(looks: Looks) -> None:
    batch = looks.work(BATCH, 4, 10)
    for _ in range(100):
        looks.look(batch, busy=False)
    looks.work(batch, 4, BIN_S - 10)
    assert looks.rates["m"].rows_per_s == 4.0


def test_the_last_rows_of_a_batch_count_although_it_has_ended(looks: Looks) -> None:
    batch = looks.work(BATCH, 4, BIN_S - 1)
    last = with_rows(batch.tally.completed + 34, batch, status=BatchStatus.COMPLETED)
    looks.look(ended=(last,))
    assert looks.rates["m"].rows_per_s == (4 * (BIN_S - 1) + 34) / BIN_S


def test_batches_of_a_model_add_up_and_those_of_another_do_not(looks: Looks) -> None:
    mine, foreign = replace(BATCH, batch_id="batch_2"), replace(BATCH, batch_id="batch_3", model="other")
    looks.look(BATCH, mine, foreign)
    for second in range(1, round(BIN_S)):
        looks.look(*(with_rows(2 * second, one) for one in (BATCH, mine, foreign)))
    (rate,) = looks.rates.values()
    assert rate.model == "m"
    assert rate.rows_per_s == pytest.approx(4.0 * (BIN_S - 1) / BIN_S)


def test_rows_of_a_mixed_batch_count_for_the_model_they_name(looks: Looks) -> None:
    def mixed(rows: int) -> Batch:
        spans = (ModelSpan("m", 0, 100, 700, rows, rows), ModelSpan("other", 100, 900, 9, 900, 9 * rows))
        return replace(BATCH, batch_id="batch_2", model=None, spans=spans)

    looks.look(mixed(0))
    for second in range(1, round(BIN_S)):
        looks.look(mixed(2 * second))
    (rate,) = looks.rates.values()
    assert rate.tokens_per_s == pytest.approx(7 * 2.0 * (BIN_S - 1) / BIN_S)


def test_a_rate_follows_slowly_and_its_deviation_grows_with_every_surprise(looks: Looks) -> None:
    batch = looks.work(BATCH, 4, BIN_S)
    batch = looks.work(batch, 8, BIN_S)
    rate = looks.rates["m"]
    assert rate.rows_per_s == pytest.approx(4.0 + NEWEST_WEIGHT * 4.0)
    assert rate.deviation == pytest.approx(NEWEST_WEIGHT * 1.0)
    for _ in range(3):
        batch = looks.work(batch, 5, BIN_S)
    assert looks.rates["m"].deviation < rate.deviation


def test_rows_that_a_retry_takes_back_are_no_negative_work(looks: Looks) -> None:
    batch = looks.work(BATCH, 4, 10)
    again = with_rows(10, batch, round=2)
    looks.look(again)
    looks.work(again, 4, BIN_S - 11)
    assert looks.rates["m"].rows_per_s == pytest.approx(4.0 * (BIN_S - 1) / BIN_S)


def test_a_batch_seen_for_the_first_time_brings_nothing_from_before(looks: Looks) -> None:
    """As after a restart of the scheduler, when most of it is done already."""
    late = with_rows(900, replace(BATCH, batch_id="batch_2"))
    looks.look(late)
    looks.work(late, 1, BIN_S - 1)
    assert looks.rates["m"].rows_per_s == pytest.approx(1.0 * (BIN_S - 1) / BIN_S)


# -- courses -----------------------------------------------------------------------------------------------


def test_a_course_is_measured_from_crowd_to_crowd_before_any_rate_is_remembered(looks: Looks) -> None:
    """Three seconds without a commit are the engine's start and cost nothing: nor does the wait for one."""
    for _ in range(3):
        looks.look(BATCH)
    assert looks.pace.rates({}) == {}
    batch = looks.work(BATCH, 4, 3)
    looks.look(batch)
    assert looks.pace.rates({})["m"].tokens_per_s == pytest.approx(200.0)  # 4 rows of 50 expected tokens


def test_rows_that_wait_longer_than_ever_for_their_commit_slow_a_course_down(looks: Looks) -> None:
    batch = looks.work(BATCH, 4, 5)
    for _ in range(4):
        looks.look(batch)
    assert looks.pace.rates({})["m"].rows_per_s == pytest.approx(16 / (4 + 3))


def test_a_remembered_rate_leads_at_first_and_the_course_soon(looks: Looks) -> None:
    known = {"m": ModelRate("m", 100.0, 0.1, 2.0, 0.0)}
    batch = looks.work(BATCH, 4, 2)
    assert looks.pace.rates(known)["m"].tokens_per_s == pytest.approx(100 + 1 / (1 + KNOWN_S) * 100)
    looks.work(batch, 4, 99)
    assert looks.pace.rates(known)["m"].tokens_per_s == pytest.approx(200.0, rel=0.05)


@pytest.mark.parametrize("paused", [False, True])
def test_a_new_course_begins_when_a_batch_comes_and_when_it_goes(looks: Looks, paused: bool) -> None:
    batch = looks.work(BATCH, 4, 5)
    other = replace(BATCH, batch_id="batch_2")
    looks.look(batch, other)
    assert looks.pace.rates({}) == {}
    looks.look(with_rows(30, batch), other)
    looks.look(with_rows(40, batch), other)
    assert set(looks.pace.rates({})) == {"m"}
    looks.look(with_rows(50, batch), *([replace(other, paused_at=1.0)] if paused else []))
    assert looks.pace.rates({}) == {}


def test_doubt_is_large_after_two_crowds_and_what_remains_is_the_last_row(looks: Looks) -> None:
    looks.running = 40
    batch = looks.work(BATCH, 4, 2)
    early = looks.pace.doubts()["m"]
    assert early.share == pytest.approx(0.5)
    looks.work(batch, 4, 98)
    late = looks.pace.doubts()["m"]
    assert late.share < 0.01
    assert late.last_row_s == pytest.approx(10 * math.log(40))  # 40 in flight at 4 a second: 10 s a row


def test_what_is_looked_at_is_told() -> None:
    pace = Pace()
    pace.note((BATCH,), (), {}, {}, 1.0)
    assert set(pace.seen) == {"batch_1"}
    pace.note((), (BATCH,), {}, {}, 2.0)
    assert set(pace.seen) == set()


# -- how true it is ----------------------------------------------------------------------------------------


def simulated_error(lengths_s: list[float], known: ModelRate | None, *, at: float) -> tuple[float, bool]:
    """Rows of these lengths, twenty at once, committed every three seconds: how far the median guess is off
    after that share of the run, and whether the late one holds.
    """
    free_at = [0.0] * 20
    ends = []
    for length_s in lengths_s:
        free_at.sort()
        free_at[0] += length_s
        ends.append(free_at[0])
    took_s = max(ends)
    pace, rates = Pace(), {} if known is None else {"m": known}
    batch = replace(BATCH, total=len(ends), expected_tokens=50 * len(ends))
    now_s = 0.0
    while now_s < at * took_s:
        committed = sum(end <= now_s - now_s % 3.0 for end in ends)
        seen = with_rows(committed, batch)
        running = sum(end > now_s for end in ends)
        measured = pace.note((seen,), (), {"m": min(20, running)}, rates, now_s + 1.0)
        rates |= {rate.model: rate for rate in measured}
        now_s += 0.5
    estimate = time_left(seen, (seen,), pace.rates(rates), pace.doubts())
    assert estimate is not None, "nothing is told"
    left_s = took_s - (now_s - 0.5)
    return abs(estimate.p50_s - left_s) / left_s, left_s <= estimate.p90_s


@pytest.mark.parametrize("known_tokens_per_s", [None, 500.0, 350.0, 700.0])
@pytest.mark.parametrize("at", [0.1, 0.25, 0.5])
def test_a_steady_run_is_foretold_to_a_tenth_whatever_was_known_before(
    known_tokens_per_s: float | None, at: float
) -> None:
    known = None if known_tokens_per_s is None else ModelRate("m", known_tokens_per_s, 0.1, 10.0, 0.0)
    error, _ = simulated_error([2.0] * 3_000, known, at=at)  # 300 s
    assert error <= 0.1


def test_nine_of_ten_ragged_runs_end_before_their_late_guess() -> None:
    chance = random.Random(7)
    runs = [
        simulated_error([chance.expovariate(0.5) for _ in range(1_500)], None, at=at)
        for at in (0.1, 0.25, 0.5)
        for _ in range(20)
    ]
    assert sum(held for _, held in runs) >= 0.9 * len(runs)
    assert statistics.median(error for error, _ in runs) <= 0.1
