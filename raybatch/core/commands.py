"""What the scheduler asks of the world. Sent only after the changes they rest on are remembered;
each may be lost or repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from raybatch.core.model import PartFile


@dataclass(frozen=True, slots=True)
class Rejection:
    """An expected refusal, as a value. The caller raises ``errors.<kind>`` from it."""

    kind: str  #: the name of a class in raybatch.errors
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Rows an engine may run: the positions ``first + i`` for every bit ``i`` of ``rows``."""

    chunk_id: int
    token: int
    batch_id: str
    input_file_id: str
    endpoint: str
    first: int
    count: int
    rows: int
    attempt: int
    priority: int = 0
    row_tokens: float = 1.0  #: expected of one row, on average: what sharing an engine fairly is measured by


@dataclass(frozen=True, slots=True)
class EngineOrders:
    """The answer to an EngineReport."""

    leases: tuple[Lease, ...] = ()
    #: that it alone may get after these; None: nobody looked, or others may get them, too
    left_rows: int | None = None
    dropped: tuple[int, ...] = ()  #: chunk ids whose lease is no longer this engine's: abort their rows
    give_back: tuple[int, ...] = ()  #: chunk ids that are paused: start none of their rows, finish what runs
    window_share: float = 1.0  #: of its window the engine may use
    model: str | None = None  #: the model a slot is to serve from now on; None: no change
    stay_idle: bool = False  #: a slot without a model is to load none of its own choice
    drain: bool = False  #: start no new row, finish and commit what runs, give the rest back
    superseded: bool = False  #: a newer start of this engine has reported: stop
    hold_s: float = 0.0  #: restarted too often: wait so long before loading


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    ALREADY = "already"  #: these very rows were committed before: nothing to do again
    STALE = "stale"  #: the lease is no longer current: the rows run elsewhere


@dataclass(frozen=True, slots=True)
class Reply:
    reply_to: str
    value: object


@dataclass(frozen=True, slots=True)
class StartReadAhead:
    """Begin the intake that a batch of this file will probably want; nothing depends on it."""

    file_id: str
    path: str  #: under the home; grows until it has the file's name


@dataclass(frozen=True, slots=True)
class StartIntake:
    batch_id: str


@dataclass(frozen=True, slots=True)
class StartClosing:
    """Write an error row with ``code`` for each row of the leases."""

    batch_id: str
    code: str
    leases: tuple[Lease, ...]
    chore: str


@dataclass(frozen=True, slots=True)
class StartCompaction:
    batch_id: str
    parts: tuple[PartFile, ...]


@dataclass(frozen=True, slots=True)
class RemoveBlob:
    file_id: str


@dataclass(frozen=True, slots=True)
class RemoveParts:
    """Compacted away: readers of the previous manifest get a grace before the bytes go."""

    batch_id: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RemoveBatch:
    """A deleted batch: after a grace for its readers, its index and its parts (``paths``) go."""

    batch_id: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WakeEngines:
    """There is something new for engines of ``model``."""

    model: str


@dataclass(frozen=True, slots=True)
class EndEngine:
    """It was silent for too long: end its process, so that it is started anew."""

    engine_id: str
    pid: int
    machine: str  #: where that pid means it


Command = (
    Reply
    | StartReadAhead
    | StartIntake
    | StartClosing
    | StartCompaction
    | RemoveBlob
    | RemoveParts
    | RemoveBatch
    | WakeEngines
    | EndEngine
)
