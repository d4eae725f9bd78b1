"""How many rows an engine holds that are not finished, and when it asks for more.

So few that a small batch that comes late need not wait, so many that the engine never does. Engines follow
this, and so do those of a simulated world.
"""

from __future__ import annotations

from typing import Final

CREDIT_S: Final = 2.0  #: a fast engine holds rows for about so long
CREDIT_ROWS_MAX: Final = 16_384
UNCOMMITTED_CREDITS_MAX: Final = 4  #: beyond so many credits of finished rows commits do not keep up


def credit_rows(window_rows: int, rows_per_s: float) -> int:
    """Rows to hold unfinished: two windows, or what a fast engine runs through in a moment."""
    return min(max(2 * window_rows, int(CREDIT_S * rows_per_s)), CREDIT_ROWS_MAX)


def wanted_rows(credit: int, unfinished: int, uncommitted: int) -> int:
    """``uncommitted``: finished rows without a verdict; too many of them mean a full disk, say."""
    return 0 if uncommitted > UNCOMMITTED_CREDITS_MAX * credit else max(0, credit - unfinished)


def rest_is_near(left_rows: int, window_rows: int) -> bool:
    """The last window of rows is asked for in one piece, so that the engine sees early enough which rows are
    the last. ``left_rows``: known to be waiting for this engine and no other."""
    return 0 < left_rows <= window_rows


def asks_at_once(wanted: int, credit: int) -> bool:
    """Whether so many wanted rows are worth a report before the next heartbeat."""
    return wanted > credit // 2
