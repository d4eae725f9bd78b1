from __future__ import annotations

import pytest

from jobs.parity import check_same_work
from jobs.runs import Finish, Ratio, Run, ratio


def test_the_steady_window_leaves_out_the_start_and_the_tail() -> None:
    """A slow first row, ten a second in between, a slow last one."""
    ends_s = [10.0, *(10.0 + 0.1 * number for number in range(1, 9)), 30.0]

    run = _run("a", [(end_s, 10) for end_s in ends_s], wall_s=31.0)

    assert run.steady_s == pytest.approx(0.8)
    assert run.steady_tokens_per_s == pytest.approx(80 / 0.8)
    assert run.wall_tokens_per_s == pytest.approx(100 / 31)


def test_rows_that_end_together_count_together() -> None:
    """Else the window of a run of few steps would depend on the order of rows within one."""
    run = _run("a", [(1.0, 30), (1.0, 10), (2.0, 30), (2.0, 30)], wall_s=2.0)

    assert run.steady_tokens_per_s == pytest.approx(60 / 1.0)


def test_a_run_that_ends_in_one_step_has_no_steady_window() -> None:
    assert _run("a", [(1.0, 10), (1.0, 10)], wall_s=1.0).steady_tokens_per_s == 0.0


def test_a_ratio_compares_within_rounds_and_tells_the_spread_between_them() -> None:
    """The machine is half as fast in the second round, for both."""
    runs = [
        *(
            _run("a", [(1.0, tokens)], 1.0, round_)
            for round_, tokens in ((0, 90), (0, 110), (1, 60), (2, 75))
        ),
        *(
            _run("b", [(1.0, tokens)], 1.0, round_)
            for round_, tokens in ((0, 90), (0, 110), (1, 50), (2, 100))
        ),
    ]

    found = ratio(runs, "a", "b", "wall_tokens_per_s")

    assert found == Ratio(pytest.approx(1.0), pytest.approx(0.75), pytest.approx(1.2))


def test_arms_that_did_other_work_are_not_compared() -> None:
    runs = [_run("a", [(1.0, 10), (2.0, 20)], 2.0), _run("b", [(1.0, 20), (2.0, 10)], 2.0)]
    check_same_work(runs)

    with pytest.raises(AssertionError, match="c made 29 tokens"):
        check_same_work([*runs, _run("c", [(1.0, 10), (2.0, 19)], 2.0)])


def _run(arm: str, ends: list[tuple[float, int]], wall_s: float, round_: int = 0) -> Run:
    finishes = tuple(Finish(at_s, 5, tokens) for at_s, tokens in ends)
    return Run(arm, round_, round_, wall_s, finishes, {}, {}, 0.0)
