"""Quiet hours follow the clock on the wall, through midnight, weekends and summer time."""

from __future__ import annotations

import os
import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybatch.core.quiet import QuietHours, check_quiet, is_quiet, next_change_at
from raybatch.errors import OperatorError

BERLIN = "Europe/Berlin"
NIGHT = QuietHours("22:00-07:00", BERLIN)


def at(text: str, zone: str = BERLIN, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


@pytest.mark.parametrize(
    ("when", "quiet"),
    [
        ("2026-06-01 21:59:59", False),
        ("2026-06-01 22:00", True),
        ("2026-06-02 00:00", True),
        ("2026-06-02 06:59:59", True),
        ("2026-06-02 07:00", False),
    ],
)
def test_a_night_passes_midnight_and_ends_on_the_minute(when: str, quiet: bool) -> None:
    assert is_quiet(NIGHT, at(when)) is quiet


def test_days_are_those_on_which_the_hours_begin() -> None:
    friday = QuietHours("22:00-07:00", BERLIN, "fri")
    assert is_quiet(friday, at("2026-06-06 06:00"))  # a Saturday
    assert not is_quiet(friday, at("2026-06-05 06:00"))
    assert next_change_at(friday, at("2026-06-06 07:00")) == at("2026-06-12 22:00")
    around_the_weekend = QuietHours("09:00-10:00", BERLIN, "sat-mon")
    quiet = [is_quiet(around_the_weekend, at(f"2026-06-0{day} 09:30")) for day in range(1, 8)]
    assert quiet == [True, False, False, False, False, True, True]  # the first was a Monday


def test_several_hours_that_touch_are_one_stretch() -> None:
    both = QuietHours("08:00-12:00, 12:00-18:00", BERLIN)
    assert next_change_at(both, at("2026-06-01 09:00")) == at("2026-06-01 18:00")


@pytest.mark.parametrize(
    ("zone", "evening", "morning", "lasts_h"),
    [
        (BERLIN, "2026-03-28 22:00", "2026-03-29 07:00", 8),
        (BERLIN, "2026-10-24 22:00", "2026-10-25 07:00", 10),
        ("America/New_York", "2026-03-07 22:00", "2026-03-08 07:00", 8),
        ("Australia/Lord_Howe", "2026-10-03 22:00", "2026-10-04 07:00", 8.5),
        ("UTC", "2026-03-28 22:00", "2026-03-29 07:00", 9),
    ],
)
def test_a_night_in_which_the_clock_changes_still_ends_at_seven(
    zone: str, evening: str, morning: str, lasts_h: float
) -> None:
    quiet = QuietHours("22:00-07:00", zone)
    ends_at = next_change_at(quiet, at(evening, zone))
    assert ends_at == at(morning, zone)
    assert ends_at - at(evening, zone) == lasts_h * 3600


def test_a_time_shown_twice_counts_when_it_is_first_shown() -> None:
    quiet = QuietHours("02:15-02:45", BERLIN)
    assert is_quiet(quiet, at("2026-10-25 02:30"))
    assert not is_quiet(quiet, at("2026-10-25 02:30", fold=1))


def test_the_machines_own_zone_holds_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ.get("TZ")
    try:
        monkeypatch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        assert is_quiet(QuietHours("22:00-07:00"), at("2026-06-01 22:30", "Asia/Kolkata"))
        assert not is_quiet(QuietHours("22:00-07:00"), at("2026-06-01 06:30", "UTC"))
    finally:
        monkeypatch.setenv("TZ", before) if before is not None else monkeypatch.delenv("TZ")
        time.tzset()


def test_hours_that_never_or_always_are_have_no_next_change() -> None:
    assert not is_quiet(QuietHours(), at("2026-06-01 00:00"))
    assert next_change_at(QuietHours(), at("2026-06-01 00:00")) is None
    always = QuietHours("00:00-24:00", BERLIN)
    assert is_quiet(always, at("2026-03-29 03:00"))
    assert next_change_at(always, at("2026-03-29 03:00")) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 1439), st.integers(0, 1439)).filter(lambda t: t[0] != t[1]), max_size=3
    ),
    st.sampled_from(["", "mon-fri", "sun", "sat-mon", "wed,fri-sat"]),
    st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "UTC"]),
    st.integers(int(at("2026-01-01 00:00", "UTC")), int(at("2026-12-31 00:00", "UTC"))),
)
def test_nothing_changes_before_the_next_change_and_then_it_does(
    windows: list[tuple[int, int]], days: str, zone: str, now: int
) -> None:
    clock = [(f"{a // 60:02}:{a % 60:02}", f"{b // 60:02}:{b % 60:02}") for a, b in windows]
    quiet = QuietHours(",".join(f"{begin}-{end}" for begin, end in clock), zone, days)
    before, changes_at = is_quiet(quiet, now), next_change_at(quiet, now)
    until = changes_at if changes_at is not None else now + 7 * 86_400
    assert all(is_quiet(quiet, now + (until - now) * step / 40) == before for step in range(40))
    if changes_at is not None:
        assert changes_at > now
        assert is_quiet(quiet, changes_at) != before


@pytest.mark.parametrize(
    ("quiet", "named"),
    [
        (QuietHours("22-7"), "quiet.hours is '22-7': '22-7' is not two times such as 22:00-07:00"),
        (QuietHours("22:00-07:00,"), "'' is not two times"),
        (QuietHours("24:00-07:00"), "a time that no clock shows"),
        (QuietHours("22:60-07:00"), "a time that no clock shows"),
        (QuietHours("07:00-07:00"), "a whole day is 00:00-24:00"),
        (QuietHours(days="monday"), "quiet.days is 'monday': 'monday' is no day of mon, tue"),
        (QuietHours(days="mon-"), "no range such as mon-fri"),
        (QuietHours(time_zone="Europe/Berlyn"), "quiet.time_zone is 'Europe/Berlyn'"),
        (QuietHours(time_zone="../etc/passwd"), "quiet.time_zone is"),
    ],
)
def test_what_no_clock_or_calendar_has_is_refused_by_its_setting(quiet: QuietHours, named: str) -> None:
    with pytest.raises(OperatorError) as refused:
        check_quiet(quiet)
    assert named in refused.value.message
