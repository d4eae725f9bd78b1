"""Finds an engine that hangs by its progress: counters that stand still while rows are in flight.

A health check may answer while nothing is generated; only progress is a sign of life.
"""

from __future__ import annotations

from typing import Final

from raybatch.engine.contract import Progress

STEPS_LONG: Final = 20.0  #: an engine may stand still so many times its longest step
UNWATCHED_S: Final = 5.0  #: between two looks; longer, and it was this process that stood still


class Watchdog:
    def __init__(self, hang_s: float) -> None:
        """``hang_s``: less than that is never a hang."""
        self._hang_s = hang_s
        self._counters = (-1, -1, -1)
        self._moved_mono = 0.0
        self._looked_mono = 0.0
        self._longest_s = 0.0  #: between two movements

    @property
    def limit_s(self) -> float:
        return max(self._hang_s, STEPS_LONG * self._longest_s)

    def stalled_s(self, progress: Progress, rows_in_flight: int, now_mono: float) -> float | None:
        """For how long it has stood still, once that is too long. Call about once a second while it is up."""
        counters = (progress.steps, progress.prompt_tokens, progress.completion_tokens)
        unwatched_s = now_mono - self._looked_mono
        self._looked_mono = now_mono
        if unwatched_s > UNWATCHED_S:  # what nobody saw is no hang, and no long step either
            self._moved_mono += unwatched_s
        if not rows_in_flight:
            self._counters, self._moved_mono = counters, now_mono
            return None
        still_s = now_mono - self._moved_mono
        if counters != self._counters:
            self._longest_s = max(self._longest_s, still_s)
            self._counters, self._moved_mono = counters, now_mono
            return None
        return still_s if still_s > self.limit_s else None
