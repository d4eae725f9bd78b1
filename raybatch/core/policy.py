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
    expire_unfinished: bool = False  #: past its completion window a batch ends; off: it goes on
    requests_max: int = 1_000_000  #: in one batch
    active_batches_max: int = 100  #: of a tenant, not ended yet
    queued_requests_max: int = 10_000_000  #: of a tenant, accepted and not finished
    enqueued_tokens_max: int = 0  #: of a tenant and model, estimated, prompt and completion; 0: no limit
    batch_bytes_max: int = 0  #: of a batch's input file; 0: no limit but that of uploads
    embedding_inputs_max: int = 0  #: in one batch, over all its requests; 0: no limit
    keep_files_days: float = 0.0  #: a file expires so long after its creation unless it says itself; 0: never
    keep_batches_days: float = 0.0  #: an ended batch is deleted, with its results, so long after; 0: never
    disk_free_bytes_min: int = 1 << 30  #: with less, nothing new is taken in
    turn_s: float = 600.0  #: a model keeps an engine's slot at least so long while another one waits
    turn_loads_min: float = 10.0  #: and at least so many times as long as loading it took
    model_retry_s: float = 300.0  #: a model that could not be loaded is tried again after so long
    lane_turn_s: float = 60.0  #: suspects and ordinary rows take turns of about so long on one engine
    suspect_groups: int = 8  #: suspects are tried in so many groups: each death narrows them down by as much
    alone_deaths_max: int = 2  #: a row that killed so many engines alone is not run again
    gentle_share: float = 0.25  #: of an engine's window, in gentle quiet hours

    @property
    def keep_files_s(self) -> int | None:
        """None: for ever."""
        return round(self.keep_files_days * 86_400) or None
