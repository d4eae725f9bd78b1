"""The numbers decisions depend on. Each has a setting of the same name under ``scheduler``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    lease_s: float = 60.0  #: a silent engine's rows are leased again after it
    engine_silent_s: float = 60.0  #: an engine not heard of for so long counts as lost
    chore_s: float = 900.0  #: a background chore not heard of for so long is started again
    compaction_fan_in: int = 16  #: parts of one level merged into one of the next
    restart_window_s: float = 300.0  #: engine starts are counted over it
    restarts_free: int = 4  #: so many starts within the window cost no wait
    restart_hold_max_s: float = 60.0
    create_repeat_s: float = 86_400.0  #: a create sent again within it answers the first batch
