"""Climbing with a trial that is a function: what is tried, in which order, and what counts as faster."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raybatch.cli.tune_search import Comparison, Failed, Ladder, Run, Values, climb, compared
from raybatch.errors import OperatorError

SEQS = Ladder("seqs", (4, 8, 16, 32, 64))
TOKENS = Ladder("tokens", (512, 1024, 2048))
EAGER = Ladder("eager", (True, False))


class Trial:
    """``speed``: of the values; each further round of the same ones adds ``drift``."""

    def __init__(self, speed: Callable[[Values], float], drift: float = 0.0) -> None:
        self.speed, self.drift = speed, drift
        self.asked: list[Values] = []

    def __call__(self, values: Values) -> Run | Failed:
        before = self.asked.count(values)
        self.asked.append(dict(values))
        speed = self.speed(values)
        return Run(speed + before * self.drift, 1 << 30) if speed else Failed("out of memory")


def seqs(comparisons: list[Comparison]) -> list[tuple[object, ...]]:
    """The values beside each other in each comparison."""
    return [tuple(one.values["seqs"] for one in comparison.candidates) for comparison in comparisons]


def test_rounds_are_interleaved_and_every_second_one_is_reversed() -> None:
    trial = Trial(lambda values: 1.0)
    compared("seqs", [{"seqs": n} for n in (1, 2, 3)], 3, trial)
    assert [values["seqs"] for values in trial.asked] == [1, 2, 3, 3, 2, 1, 1, 2, 3]


def test_it_climbs_as_long_as_a_direction_wins_and_ends_before_the_step_that_does_not() -> None:
    trial = Trial(lambda values: {4: 90.0, 8: 100.0, 16: 80.0, 32: 60.0, 64: 50.0}[int(values["seqs"])])
    comparisons = list(climb({"seqs": 32}, [SEQS], 2, trial))
    assert seqs(comparisons) == [(32, 16, 64), (16, 8), (8, 4), (32, 8)]
    assert comparisons[-1].winner.values == {"seqs": 8}
    assert comparisons[-1].ratio(comparisons[-1].winner) == pytest.approx(100 / 60)


def test_one_setting_after_the_other_starts_from_what_was_found() -> None:
    trial = Trial(lambda v: int(v["seqs"]) * (2.0 if v["tokens"] == 2048 else 1.0) * (1 + (not v["eager"])))
    present: Values = {"seqs": 32, "tokens": 1024, "eager": True}
    comparisons = list(climb(present, [SEQS, TOKENS, EAGER], 2, trial))
    assert [comparison.key for comparison in comparisons] == ["seqs", "tokens", "eager", ""]
    assert comparisons[1].candidates[0].values == {"seqs": 64, "tokens": 1024, "eager": True}
    assert comparisons[-1].winner.values == {"seqs": 64, "tokens": 2048, "eager": False}
    assert comparisons[-1].candidates[0].values == present


def test_what_is_won_in_one_step_needs_no_second_comparison() -> None:
    trial = Trial(lambda values: float(values["eager"] is False) + 1)
    assert len(list(climb({"eager": True}, [EAGER], 2, trial))) == 1


@pytest.mark.parametrize(
    ("speed", "drift"),
    [
        pytest.param(100.0, 0.0, id="no difference"),
        pytest.param(110.0, 15.0, id="a difference within the spread"),
        pytest.param(101.0, 0.0, id="a difference that is not worth it"),
        pytest.param(70.0, 0.0, id="slower"),
    ],
)
def test_the_present_setting_stays_without_a_gain_beyond_the_spread(speed: float, drift: float) -> None:
    trial = Trial(lambda values: 100.0 if values["seqs"] == 16 else speed, drift)
    (comparison,) = climb({"seqs": 16}, [SEQS], 2, trial)
    assert comparison.winner.values == {"seqs": 16}


def test_a_candidate_that_does_not_run_is_skipped_and_not_tried_again() -> None:
    trial = Trial(lambda values: 0.0 if values["seqs"] == 64 else 100.0)
    (comparison,) = climb({"seqs": 32}, [SEQS], 3, trial)
    assert trial.asked.count({"seqs": 64}) == 1
    assert [one.failed for one in comparison.candidates] == [None, None, "out of memory"]
    assert comparison.winner.values == {"seqs": 32}


def test_a_candidate_that_fails_in_a_later_round_does_not_win() -> None:
    asked: list[Values] = []

    def trial(values: Values) -> Run | Failed:
        asked.append(values)
        fast = Run(200.0, 1) if asked.count(values) == 1 else Failed("out of memory")
        return fast if values["seqs"] == 64 else Run(100.0, 1)

    (comparison,) = climb({"seqs": 32}, [SEQS], 2, trial)
    assert comparison.winner.values == {"seqs": 32}


def test_whatever_runs_is_better_than_a_present_setting_that_does_not() -> None:
    trial = Trial(lambda values: 0.0 if int(values["seqs"]) > 16 else float(values["seqs"]))
    comparisons = list(climb({"seqs": 32}, [SEQS], 2, trial))
    assert seqs(comparisons) == [(32, 16, 64), (16, 8)]
    assert comparisons[-1].winner.values == {"seqs": 16}


def test_when_nothing_runs_the_reason_is_told() -> None:
    with pytest.raises(OperatorError, match="nor beside them: out of memory"):
        list(climb({"seqs": 32}, [SEQS], 2, Trial(lambda _: 0.0)))


def test_a_present_value_at_the_end_of_its_ladder_has_one_neighbour() -> None:
    (comparison,) = climb({"seqs": 4}, [SEQS], 2, Trial(lambda _: 1.0))
    assert seqs([comparison]) == [(4, 8)]
    assert list(climb({"seqs": 4}, [Ladder("seqs", (4,))], 2, Trial(lambda _: 1.0))) == []
