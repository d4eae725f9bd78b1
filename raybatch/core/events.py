"""What may happen: the only door through which facts reach the scheduler.

Events with a ``reply_to`` are answered by a ``Reply`` command that carries the same value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from raybatch.core.fitness import FIT, GpuReading, GpuVerdict
from raybatch.core.model import (
    File,
    LineError,
    ModelRate,
    ModelSpan,
    PartFile,
    PartSlice,
    RowSpan,
    Tally,
    Validation,
)


@dataclass(frozen=True, slots=True)
class Now:
    """The two clocks an event is decided under."""

    wall: float  #: seconds since the epoch, UTC: for display and the completion window only
    mono: float  #: monotonic seconds of this process: for every deadline


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class UploadArriving:
    """A hint that may be lost: a large file is on its way to ``file_id``."""

    file_id: str
    path: str  #: under the home; what has arrived so far is in it


@dataclass(frozen=True, slots=True)
class FileStored:
    reply_to: str
    file: File


@dataclass(frozen=True, slots=True)
class FileDeletionAsked:
    reply_to: str
    tenant: str
    file_id: str


@dataclass(frozen=True, slots=True)
class BatchAsked:
    """``batch_id`` and the two file ids are drawn by the caller, so that the decision stays deterministic."""

    reply_to: str
    batch_id: str
    tenant: str
    input_file_id: str
    output_file_id: str
    error_file_id: str
    endpoint: str
    completion_window: str
    completion_window_s: float
    metadata: dict[str, str] | None
    priority: int
    request_key: str
    idempotency_key: str | None
    is_retry: bool  #: the client says it has sent this before (``x-stainless-retry-count``)
    output_expires_after_s: int | None = None
    validation: Validation | None = None


@dataclass(frozen=True, slots=True)
class CancelAsked:
    reply_to: str
    tenant: str
    batch_id: str


@dataclass(frozen=True, slots=True)
class BatchDeletionAsked:
    """An active batch is cancelled by it, an ended one forgotten with all its data."""

    reply_to: str
    tenant: str
    batch_id: str


@dataclass(frozen=True, slots=True)
class RetentionDue:
    """Now and then: what has outlived its time is to go. Said only while the wall clock can be believed."""


@dataclass(frozen=True, slots=True)
class RetryAsked:
    """Run failed rows of an ended batch again. Whoever asks has looked them up in the rows of ``round``."""

    reply_to: str
    tenant: str
    batch_id: str
    round: int
    spans: tuple[RowSpan, ...]  #: no position twice
    tally: Tally  #: of these rows, which no longer counts
    output_file_id: str  #: of the files this round will end with
    error_file_id: str


@dataclass(frozen=True, slots=True)
class PauseAsked:
    """``batch_id`` None: everything, whatever is handed in later included."""

    reply_to: str
    tenant: str
    batch_id: str | None
    on: bool


@dataclass(frozen=True, slots=True)
class DrainAsked:
    reply_to: str
    on: bool


@dataclass(frozen=True, slots=True)
class IntakeEnded:
    """The pass over an upload came to a verdict: ``errors`` empty means accepted."""

    batch_id: str
    total: int
    model: str | None  #: None when there are errors, and when ``spans`` name several
    expected_tokens: int
    errors: tuple[LineError, ...]
    spans: tuple[ModelSpan, ...] = ()


@dataclass(frozen=True, slots=True)
class ChoreBroke:
    """A background chore ended without a verdict."""

    chore: str
    reason: str


class QuietMode(StrEnum):
    PAUSE = "pause"  #: start no row
    GENTLE = "gentle"  #: a small window


@dataclass(frozen=True, slots=True)
class SurroundingsSeen:
    """What the scheduler found when it last looked around."""

    disk_free_bytes: int
    quiet: QuietMode | None  #: None outside quiet hours


@dataclass(frozen=True, slots=True)
class RatesMeasured:
    rates: tuple[ModelRate, ...]


class EnginePhase(StrEnum):
    IDLE = "idle"  #: a slot without a model
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"  #: the model could not be loaded
    DIED = "died"  #: lost with rows in flight, or hung; its process is about to end
    STOPPED = "stopped"  #: ended on purpose; its process is about to end


@dataclass(frozen=True, slots=True)
class HeldLease:
    chunk_id: int
    token: int


@dataclass(frozen=True, slots=True)
class RowsInFlight:
    """What an engine was running of a lease when it died."""

    chunk_id: int
    token: int
    rows: int  #: bitmap


@dataclass(frozen=True, slots=True)
class EngineReport:
    """An engine's heartbeat, and its order for more rows. Sent again with a higher ``seq``, never changed.

    A lease the scheduler granted to this engine and that is missing from ``held`` is free again.
    """

    reply_to: str
    engine_id: str
    #: seconds since its machine's boot when the engine started: a later start is the same engine, born again.
    #: Not a wall instant, for those may jump back; on another machine it may be less, which counts once this
    #: one is lost.
    incarnation: float
    seq: int  #: grows with every report of one incarnation
    models: tuple[str, ...]  #: the canonical id first, then the aliases it answers to
    phase: EnginePhase
    held: tuple[HeldLease, ...]
    wants_rows: int
    window: int
    running: int
    rows_per_s: float
    tokens_per_s: float
    pid: int
    child_pids: tuple[int, ...]
    error: str | None = None  #: why phase is failed or died
    machine: str = ""  #: names the boot of the machine it runs on: there its pid means it
    slot: bool = False  #: serves the models of the configuration in turns
    serves: tuple[str, ...] = ()  #: ids of the models a slot may be told to serve
    load_s: float = 0.0  #: what loading its model took
    ready_s: float = 0.0  #: how long its model has been loaded
    kv_cache_usage: float = 0.0  #: 0..1
    gpus: tuple[GpuReading, ...] = ()
    verdict: GpuVerdict = FIT
    #: with phase died, when the fault may be a row's: what was in flight. Empty when it was killed from
    #: outside or its GPU broke
    in_flight: tuple[RowsInFlight, ...] = ()


@dataclass(frozen=True, slots=True)
class PartWritten:
    """A part is safe on disk. It becomes results only by the scheduler's verdict."""

    reply_to: str
    engine_id: str
    batch_id: str
    part: PartFile
    slices: tuple[PartSlice, ...]


@dataclass(frozen=True, slots=True)
class PartsCompacted:
    batch_id: str
    part: PartFile
    replaced: tuple[str, ...]


Event = (
    Tick
    | UploadArriving
    | FileStored
    | FileDeletionAsked
    | BatchAsked
    | CancelAsked
    | BatchDeletionAsked
    | RetentionDue
    | RetryAsked
    | PauseAsked
    | DrainAsked
    | SurroundingsSeen
    | RatesMeasured
    | IntakeEnded
    | ChoreBroke
    | EngineReport
    | PartWritten
    | PartsCompacted
)
