"""Quiet hours: when raybatch stays out of the way of whoever uses the machine.

Pure but for the time zone database, which is read through ``zoneinfo``. A time that the clock shows twice (in
autumn) counts when it is first shown; one that it skips (in spring) counts as if it had not jumped yet.
It decides nothing about rows: the scheduler does, by ``QuietHours.mode``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from raybatch.core.events import QuietMode
from raybatch.errors import OperatorError

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES_A_DAY: Final = 24 * 60
_HOURS = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})")


@dataclass(frozen=True, slots=True)
class QuietHours:
    hours: str = ""  #: "22:00-07:00", several separated by commas; may pass midnight; empty: none
    time_zone: str = ""  #: such as "Europe/Berlin"; empty: the machine's own
    days: str = ""  #: on which they begin, such as "mon-fri" or "sat,sun"; empty: every day
    mode: QuietMode = QuietMode.PAUSE


def is_quiet(quiet: QuietHours, wall_s: float) -> bool:
    """``wall_s``: seconds since the Unix epoch. Raises OperatorError as ``check_quiet`` does."""
    return any(begins_at <= wall_s < ends_at for begins_at, ends_at in _stretches(quiet, wall_s))


def check_quiet(quiet: QuietHours) -> None:
    """Raises OperatorError naming the field, what it holds and what it may hold."""
    _windows(quiet.hours)
    _weekdays(quiet.days)
    _zone(quiet.time_zone)


class _Window(NamedTuple):
    begin_min: int  #: minutes after midnight
    end_min: int  #: more than a day's when it ends on the next one


def _stretches(quiet: QuietHours, wall_s: float) -> tuple[tuple[float, float], ...]:
    """Begin and end of every window that may hold ``wall_s``, as instants."""
    zone = _zone(quiet.time_zone)
    today = datetime.fromtimestamp(wall_s, UTC).astimezone(zone).date()
    return _stretches_around(today, zone, _windows(quiet.hours), _weekdays(quiet.days))


@lru_cache(maxsize=8)
def _stretches_around(
    today: date, zone: ZoneInfo | None, windows: tuple[_Window, ...], weekdays: frozenset[int]
) -> tuple[tuple[float, float], ...]:
    days = (today - timedelta(days=1), today)  # a window that began yesterday may last into today
    return tuple(
        (_instant(day, window.begin_min, zone), _instant(day, window.end_min, zone))
        for day in days
        if day.weekday() in weekdays
        for window in windows
    )


def _instant(day: date, minutes: int, zone: ZoneInfo | None) -> float:
    days, minutes = divmod(minutes, _MINUTES_A_DAY)
    shown = time(*divmod(minutes, 60), tzinfo=zone)
    return datetime.combine(day + timedelta(days=days), shown).timestamp()


@lru_cache(maxsize=8)
def _windows(hours: str) -> tuple[_Window, ...]:
    return tuple(_window(word.strip(), hours) for word in hours.split(",")) if hours.strip() else ()


def _window(word: str, hours: str) -> _Window:
    found = _HOURS.fullmatch(word)
    if found is None:
        raise OperatorError(f"quiet.hours is '{hours}': '{word}' is not two times such as 22:00-07:00")
    begin_h, begin_m, end_h, end_m = (int(number) for number in found.groups())
    begin_min, end_min = begin_h * 60 + begin_m, end_h * 60 + end_m
    if max(begin_m, end_m) > 59 or begin_min >= _MINUTES_A_DAY or end_min > _MINUTES_A_DAY:
        raise OperatorError(f"quiet.hours is '{hours}': '{word}' has a time that no clock shows")
    if begin_min == end_min:
        raise OperatorError(f"quiet.hours is '{hours}': '{word}' lasts no time; a whole day is 00:00-24:00")
    return _Window(begin_min, end_min if end_min > begin_min else end_min + _MINUTES_A_DAY)


@lru_cache(maxsize=8)
def _weekdays(days: str) -> frozenset[int]:
    """0 is Monday."""
    if not days.strip():
        return frozenset(range(len(DAYS)))
    return frozenset(day for word in days.split(",") for day in _day_range(word.strip(), days))


def _day_range(word: str, days: str) -> list[int]:
    first, dash, last = word.lower().partition("-")
    if first not in DAYS or (dash and last not in DAYS):
        raise OperatorError(
            f"quiet.days is '{days}': '{word}' is no day of {', '.join(DAYS)} and no range such as mon-fri"
        )
    begin, end = DAYS.index(first), DAYS.index(last if dash else first)
    return [day % len(DAYS) for day in range(begin, (end if end >= begin else end + len(DAYS)) + 1)]


@lru_cache(maxsize=8)
def _zone(time_zone: str) -> ZoneInfo | None:
    if not time_zone:
        return None
    try:
        return ZoneInfo(time_zone)
    except (KeyError, ValueError, OSError):  # KeyError: ZoneInfoNotFoundError
        raise OperatorError(
            f"quiet.time_zone is '{time_zone}', which the time zone database does not hold: "
            "give a name such as Europe/Berlin, or leave it empty for the machine's own"
        ) from None
