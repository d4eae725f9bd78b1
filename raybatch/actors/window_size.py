"""How many rows to keep in flight: all that the engine can use, and no more than it is allowed.

The engine names a full window, slightly above what it runs at once. When its memory does not hold so many
(it lets rows wait, look after look), the window shrinks to what runs and a few to follow; once nothing waits,
it grows again. Rows that wait at a single look have just arrived, for as many that ended in one step.
Heat, other people's memory and quiet hours allow a share of it.
"""

from __future__ import annotations

from typing import Final

from raybatch.engine.contract import Progress

SPARE_SHARE: Final = 1 / 9  #: of a full window: rows ready to follow those that run
GROWTH_SHARE: Final = 1 / 16
CROWDED_LOOKS: Final = 10  #: in a row, before rows that wait are too many


class WindowSize:
    def __init__(self, full_rows: int) -> None:
        self._full_rows = full_rows
        self._usable_rows = full_rows
        self._spare_rows = max(2, round(full_rows * SPARE_SHARE))
        self._crowded_looks = 0
        self._most_running = 0  #: of those looks

    def note(self, progress: Progress, in_flight: int) -> None:
        """Call about once a second."""
        if progress.waiting > 2 * self._spare_rows:
            self._crowded_looks += 1
            self._most_running = max(self._most_running, progress.running)
        else:
            self._crowded_looks = self._most_running = 0
        if self._crowded_looks >= CROWDED_LOOKS:
            self._usable_rows = min(self._usable_rows, self._most_running + self._spare_rows)
            self._crowded_looks = self._most_running = 0
        elif progress.waiting <= self._spare_rows and in_flight >= self._usable_rows:
            grown = self._usable_rows + max(1, round(self._full_rows * GROWTH_SHARE))
            self._usable_rows = min(self._full_rows, grown)

    def rows(self, share: float) -> int:
        """``share``: 0 stops everything, 1 allows all."""
        allowed = round(self._full_rows * share)
        return 0 if share <= 0 else max(1, min(self._usable_rows, allowed))
