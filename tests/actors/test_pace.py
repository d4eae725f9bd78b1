"""Rates of batches and models, from what was committed and when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raybatch.actors.pace import NEWEST_WEIGHT, SPAN_S, Pace
from raybatch.core.estimate import BIN_S
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

    def look(self, *active: Batch, ended: tuple[Batch, ...] = (), busy: bool = True) -> None:
        self.now_mono += 1.0
        measured = self.pace.note(active, ended, {"m"} if busy else set(), self.rates, self.now_mono)
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


def test_what_is_looked_at_is_told() -> None:
    pace = Pace()
    pace.note((BATCH,), (), (), {}, 1.0)
    assert set(pace.seen) == {"batch_1"}
    pace.note((), (BATCH,), (), {}, 2.0)
    assert set(pace.seen) == set()
