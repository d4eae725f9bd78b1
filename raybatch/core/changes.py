"""What may change, by name. Durable changes are journalled and committed before anybody hears of them;
volatile ones live in memory only and are rebuilt by the engines' next reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeGuard

from raybatch.core.events import EngineReport, SurroundingsSeen
from raybatch.core.model import (
    Batch,
    File,
    LineError,
    ModelRate,
    ModelSpan,
    PartFile,
    PartSlice,
    RowSpan,
    Tally,
)


@dataclass(frozen=True, slots=True)
class FileAdded:
    file: File


@dataclass(frozen=True, slots=True)
class FileHidden:
    """A client deleted it. Its bytes stay as long as a batch refers to them."""

    file_id: str


@dataclass(frozen=True, slots=True)
class FileRemoved:
    """Nothing refers to it any more; its bytes go too."""

    file_id: str


@dataclass(frozen=True, slots=True)
class BatchCreated:
    batch: Batch


@dataclass(frozen=True, slots=True)
class BatchValidated:
    batch_id: str
    total: int
    model: str | None  #: None when ``spans`` name several
    expected_tokens: int
    at: float
    spans: tuple[ModelSpan, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchFailed:
    batch_id: str
    errors: tuple[LineError, ...]
    at: float


@dataclass(frozen=True, slots=True)
class LeaseGranted:
    """Cuts the chunk from the batch's cursor at ``first``, or leases an available one again."""

    chunk_id: int
    batch_id: str
    first: int
    count: int
    token: int
    engine_id: str


@dataclass(frozen=True, slots=True)
class LeaseReleased:
    """Given back, expired or orphaned: the missing rows may be leased again under a new token."""

    chunk_id: int
    token: int


@dataclass(frozen=True, slots=True)
class DeathBlamed:
    """The lease ends because its engine died with ``rows`` of it in flight.

    Each of ``suspects`` (bitmaps, apart from each other) becomes a chunk of its own that runs alone.
    ``alone``: the chunk has but one row and nothing else was in flight.
    """

    chunk_id: int
    token: int
    rows: int
    suspects: tuple[int, ...] = ()
    alone: bool = False


@dataclass(frozen=True, slots=True)
class PartCommitted:
    """The manifest row: these rows are results from now on. Chunks it covers to the last row complete."""

    batch_id: str
    part: PartFile
    slices: tuple[PartSlice, ...]


@dataclass(frozen=True, slots=True)
class PartsReplaced:
    """Compaction: ``part`` holds exactly the rows of the parts it replaces."""

    batch_id: str
    part: PartFile
    replaced: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BatchCancelling:
    batch_id: str
    at: float


@dataclass(frozen=True, slots=True)
class BatchExpiring:
    """Its completion window has passed: no further row of it is run."""

    batch_id: str
    at: float


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """Every row is committed: in_progress to completed, finalizing to expired, cancelling to cancelled."""

    batch_id: str
    at: float


@dataclass(frozen=True, slots=True)
class BatchDeleted:
    """An ended batch is forgotten: its rows, its output and error files of all rounds, its log."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class BatchReopened:
    """A new round: the rows of ``spans`` run again, what they had come to no longer counts."""

    batch_id: str
    spans: tuple[RowSpan, ...]
    tally: Tally  #: of what no longer counts
    output_file_id: str
    error_file_id: str
    at: float = 0.0  #: its completion window begins anew; 0: an older version did not say


@dataclass(frozen=True, slots=True)
class BatchPaused:
    batch_id: str
    at: float


@dataclass(frozen=True, slots=True)
class BatchResumed:
    batch_id: str
    at: float


@dataclass(frozen=True, slots=True)
class AllPaused:
    """While on, no row of any batch is leased."""

    on: bool
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class ClockJumped:
    """The wall clock moved by itself: deadlines move with it."""

    by_s: float  #: negative when it was set back


@dataclass(frozen=True, slots=True)
class Logged:
    at: float
    kind: str
    message: str
    batch_id: str | None = None
    engine_id: str | None = None


@dataclass(frozen=True, slots=True)
class RateNoted:
    rate: ModelRate


@dataclass(frozen=True, slots=True)
class EngineSeen:
    """Volatile. An engine reported."""

    report: EngineReport
    at_mono: float
    starts: tuple[float, ...]  #: monotonic instants of its last starts, for the restart back-off
    ordered: str | None = None  #: the model a slot was told to serve and has not begun to load


@dataclass(frozen=True, slots=True)
class EngineLost:
    """Volatile. Silent for too long."""

    engine_id: str


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """Volatile. ``deadline_mono``: monotonic instant of this process."""

    chunk_id: int
    deadline_mono: float


@dataclass(frozen=True, slots=True)
class ChoreNoted:
    """Volatile. A chore (intake, closing, compaction) is under way; ended if ``due_mono`` is None."""

    chore: str
    due_mono: float | None


@dataclass(frozen=True, slots=True)
class LaneTurn:
    """Volatile. From now on the engine takes turns with: suspects, or ordinary rows."""

    engine_id: str
    quarantine: bool
    at_mono: float


@dataclass(frozen=True, slots=True)
class DrainSet:
    """Volatile. While on, nothing is leased."""

    on: bool


@dataclass(frozen=True, slots=True)
class ClockRead:
    """Volatile. From here on the two clocks are held against each other."""

    offset_s: float  #: wall less monotonic


@dataclass(frozen=True, slots=True)
class SurroundingsNoted:
    """Volatile."""

    seen: SurroundingsSeen


DurableChange = (
    FileAdded
    | FileHidden
    | FileRemoved
    | BatchCreated
    | BatchValidated
    | BatchFailed
    | LeaseGranted
    | LeaseReleased
    | DeathBlamed
    | PartCommitted
    | PartsReplaced
    | BatchCancelling
    | BatchExpiring
    | BatchEnded
    | BatchDeleted
    | BatchReopened
    | BatchPaused
    | BatchResumed
    | AllPaused
    | ClockJumped
    | Logged
    | RateNoted
)
VolatileChange = (
    EngineSeen | EngineLost | LeaseRenewed | ChoreNoted | LaneTurn | DrainSet | ClockRead | SurroundingsNoted
)
Change = DurableChange | VolatileChange

DURABLE: Final[dict[str, type]] = {kind.__name__: kind for kind in DurableChange.__args__}


def is_durable(change: Change) -> TypeGuard[DurableChange]:
    return type(change).__name__ in DURABLE
