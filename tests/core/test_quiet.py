"""Quiet hours follow the clock on the wall, through midnight, weekends and summer time."""

from __future__ import annotations

import os
import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybatch.core.quiet import QuietHours, check_quiet, is_quiet
from raybatch.errors import OperatorError

BERLIN = "Europe/Berlin"
NIGHT = QuietHours("22:00-07:00", BERLIN)
WEEKDAYS = {
    "": range(7),
    "mon-fri": range(5),
    "sun": (6,),
    "sat-mon": (5, 6, 0),
    "wed,fri-sat": (2, 4, 5),
}  #: the days a setting names, Monday being 0


def at(text: str, zone: str = BERLIN, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def next_change_at(quiet: QuietHours, since: float) -> float | None:
    """To the minute, within eight days of ``since``, which is a whole minute."""
    minutes = (since + 60 * minute for minute in range(8 * 24 * 60))
    return next((at for at in minutes if is_quiet(quiet, at) != is_quiet(quiet, since)), None)


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


def test_hours_that_never_or_always_are_do_not_change() -> None:
    assert not is_quiet(QuietHours(), at("2026-06-01 00:00"))
    assert next_change_at(QuietHours(), at("2026-06-01 00:00")) is None
    always = QuietHours("00:00-24:00", BERLIN)
    assert is_quiet(always, at("2026-03-29 03:00"))
    assert next_change_at(always, at("2026-03-29 03:00")) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 1439), st.integers(0, 1439)).filter(lambda t: t[0] != t[1]), max_size=3
    ),
    st.sampled_from(list(WEEKDAYS)),
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)),
)
def test_quiet_is_every_minute_of_a_window_that_began_on_one_of_its_days(
    windows: list[tuple[int, int]], days: str, now: datetime
) -> None:
    clock = [(f"{a // 60:02}:{a % 60:02}", f"{b // 60:02}:{b % 60:02}") for a, b in windows]
    quiet = QuietHours(",".join(f"{begin}-{end}" for begin, end in clock), "UTC", days)
    minute = now.hour * 60 + now.minute
    today, yesterday = now.weekday() in WEEKDAYS[days], (now.weekday() - 1) % 7 in WEEKDAYS[days]
    within_a_day = any(today and begin <= minute < end for begin, end in windows)
    past_midnight = any(
        (today and minute >= begin) or (yesterday and minute < end) for begin, end in windows if begin > end
    )
    assert is_quiet(quiet, now.replace(tzinfo=ZoneInfo("UTC")).timestamp()) is (within_a_day or past_midnight)


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
