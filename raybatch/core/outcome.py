"""What an engine's answer means for its row: one table.

| answer          | outcome                                                                   |
|-----------------|---------------------------------------------------------------------------|
| 2xx             | done                                                                      |
| 408, 429, 503   | try again: the engine was busy, aborted the row, or lost its client        |
| 500             | try again once, then final: a fault of the row looks the same every time  |
| any other 4xx   | final: the row itself is wrong                                            |
| any other 5xx   | try again                                                                 |

A row whose tries are used up keeps the engine's last answer as its final one.
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    DONE = "done"
    FINAL = "final"
    TRY_AGAIN = "try_again"


def judge(status: int, tries: int, tries_max: int) -> Outcome:
    """``tries``: how often the row has been answered, this answer included."""
    if status < 400:
        return Outcome.DONE
    if status == 500:
        tries_max = min(tries_max, 2)
    elif status < 500 and status not in (408, 429):
        return Outcome.FINAL
    return Outcome.TRY_AGAIN if tries < tries_max else Outcome.FINAL
