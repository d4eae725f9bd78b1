"""How many rows to keep in flight: all that the engine can use, and no more than it is allowed.

The engine names a full window, slightly above what it runs at once. When its memory does not hold so many
(it lets rows wait, look after look), the window shrinks to what runs and a few to follow; once nothing waits,
it grows again. Rows that wait at a single look have just arrived, for as many that ended in one step.

Where rows end together, as answers of one length do, the few that follow are not enough: places are empty
until the next step. A look that finds them so lets more rows stand ready, up to one for each place.
Heat, other people's memory and quiet hours allow a share of the full window.
"""

from __future__ import annotations

from typing import Final

from raybatch.engine.contract import Progress

SPARE_SHARE: Final = 1 / 9  #: of a full window: rows ready to follow those that run
GROWTH_SHARE: Final = 1 / 16
CROWDED_LOOKS: Final = 10  #: in a row, before rows that wait are too many
EMPTY_SHARE: Final = 1 / 8  #: of the places: so many without a row are too many
READY_SHARE: Final = 1 / 4  #: of the places: that more rows stand ready after a look at empty places
UNREADY_SHARE: Final = 1 / 128  #: that fewer do after any other look


class WindowSize:
    def __init__(self, full_rows: int) -> None:
        self._full_rows = full_rows
        self._usable_rows = full_rows
        self._spare_rows = max(2, round(full_rows * SPARE_SHARE))
        self._places = max(1, full_rows - self._spare_rows)
        self._ready_rows = 0.0  #: beyond a full window
        self._crowded_looks = 0
        self._most_running = 0  #: of those looks

    def note(self, progress: Progress, in_flight: int) -> None:
        """Call about once a second."""
        self._note_empty_places(progress, in_flight)
        if progress.waiting > 2 * self._spare_rows + self._ready_rows:
            self._crowded_looks += 1
            self._most_running = max(self._most_running, progress.running)
        else:
            self._crowded_looks = self._most_running = 0
        if self._crowded_looks >= CROWDED_LOOKS:
            self._usable_rows = min(self._usable_rows, self._most_running + self._spare_rows)
            self._crowded_looks = self._most_running = 0
            self._ready_rows = 0.0
        elif progress.waiting <= self._spare_rows + self._ready_rows and in_flight >= self._usable_rows:
            grown = self._usable_rows + max(1, round(self._full_rows * GROWTH_SHARE))
            self._usable_rows = min(self._full_rows, grown)

    def rows(self, share: float) -> int:
        """``share``: 0 stops everything, 1 allows all."""
        if share >= 1:
            return max(1, self._usable_rows + round(self._ready_rows))
        allowed = round(self._full_rows * share)
        return 0 if share <= 0 else max(1, min(self._usable_rows, allowed))

    def _note_empty_places(self, progress: Progress, in_flight: int) -> None:
        """Those that rows are on their way to, for the window itself is full."""
        full = self._usable_rows == self._full_rows and in_flight >= self.rows(1.0)
        empty = self._places - progress.running - progress.waiting
        if full and empty > self._places * EMPTY_SHARE:
            self._ready_rows = min(self._places, self._ready_rows + self._places * READY_SHARE)
        else:
            self._ready_rows = max(0.0, self._ready_rows - self._places * UNREADY_SHARE)
