"""How many rows an engine holds, and when it asks for more."""

from __future__ import annotations

from raybatch.core.credit import CREDIT_ROWS_MAX, asks_at_once, credit_rows, wanted_rows


def test_a_slow_engine_holds_two_windows_and_a_fast_one_what_it_runs_in_a_moment() -> None:
    assert credit_rows(64, rows_per_s=10.0) == 128
    assert credit_rows(64, rows_per_s=1_000.0) == 2_000
    assert credit_rows(64, rows_per_s=1e9) == CREDIT_ROWS_MAX


def test_it_wants_what_it_does_not_hold_unless_commits_do_not_keep_up() -> None:
    assert wanted_rows(credit=128, unfinished=100, uncommitted=0) == 28
    assert wanted_rows(credit=128, unfinished=300, uncommitted=0) == 0
    assert wanted_rows(credit=128, unfinished=0, uncommitted=4 * 128) == 128
    assert wanted_rows(credit=128, unfinished=0, uncommitted=4 * 128 + 1) == 0


def test_half_a_credit_is_worth_a_report() -> None:
    assert not asks_at_once(64, 128)
    assert asks_at_once(65, 128)
