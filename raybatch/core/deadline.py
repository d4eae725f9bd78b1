"""Completion windows: how long a batch may take, and which time counts.

A target unless ``scheduler.expire_unfinished`` is on; then a batch that is past its ``expires_at`` starts no
more rows, keeps those it has, and ends as ``expired``. What counts:

- A pause never does, of the batch or of everything. Quiet hours, drains and time in which nothing ran do.
- A retry begins the window anew.
- While one scheduler process lives, its monotonic clock counts. When the wall clock moves by itself (it was
  set, or the machine slept) the deadlines of batches that run move with it, so that their time left stays.
- From one process to the next only the wall clock is left: set wrong meanwhile, it is believed.

Refuses to end anything: that is the closing chore's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from raybatch.core.changes import Change, ClockJumped, ClockRead
from raybatch.core.events import Now
from raybatch.core.model import Batch, BatchStatus

if TYPE_CHECKING:
    from raybatch.core.state import State

JUMP_MIN_S: Final = 60.0  #: less is a clock that is being corrected; adds up until it is as much


def past(state: State, batch: Batch, now: Now) -> bool:
    """Whether the batch has used up its window. One that is being validated has not: its rows are unknown."""
    runs = batch.status is BatchStatus.IN_PROGRESS and batch.paused_at is None and not state.all_paused
    wall = now.wall if state.clock_offset_s is None else now.mono + state.clock_offset_s
    return runs and batch.expires_at <= wall


def jumped(state: State, now: Now) -> tuple[Change, ...]:
    """What comes of the clocks going apart. To be applied before what else is decided under ``now``."""
    offset_s = now.wall - now.mono
    if state.clock_offset_s is None:
        return (ClockRead(offset_s),)
    by_s = offset_s - state.clock_offset_s
    if abs(by_s) < JUMP_MIN_S:
        return ()
    matters = state.active or state.all_paused
    return (ClockRead(offset_s), ClockJumped(by_s)) if matters else (ClockRead(offset_s),)


def moved(batch: Batch, by_s: float) -> Batch:
    """With as much of its window, and of its pause, as before the wall clock moved."""
    paused_at = None if batch.paused_at is None else batch.paused_at + by_s
    return replace(batch, paused_s=batch.paused_s + by_s, paused_at=paused_at)


def resumed(batch: Batch, at: float, all_paused_at: float = 0.0) -> Batch:
    """Not paused by itself; an ended batch never is. ``all_paused_at``: 0 unless everything is, too."""
    if batch.paused_at is None:
        return batch
    until = min(at, all_paused_at) if all_paused_at else at  # the rest counts when everything is resumed
    return replace(batch, paused_at=None, paused_s=batch.paused_s + max(0.0, until - batch.paused_at))


def all_resumed(batch: Batch, since: float, at: float) -> Batch:
    """``since``: when everything was paused, perhaps before the batch began."""
    until = at if batch.paused_at is None else batch.paused_at  # the rest counts when it is resumed itself
    held_s = until - max(since, batch.created_at + batch.paused_s)
    return replace(batch, paused_s=batch.paused_s + max(0.0, held_s))


def anew(batch: Batch, at: float) -> Batch:
    """With a whole window from ``at`` on; 0: an older version did not say when."""
    return replace(batch, paused_s=at - batch.created_at) if at else batch
