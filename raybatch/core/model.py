"""The nouns that are remembered: file, batch, chunk, part, redrive, log entry, rate.

Frozen; a change makes a new one. Instants are float seconds since the Unix epoch, UTC, and end in ``_at``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BatchStatus(StrEnum):
    """OpenAI's eight words, exactly."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


TERMINAL = frozenset({BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})


#: Rows in one chunk at most: keeps a bitmap to half a kilobyte.
CHUNK_ROWS_MAX = 4096

DEFAULT_TENANT = "default"


class Validation(StrEnum):
    """What a bad line of the input does."""

    STRICT = "strict"  #: fails the batch; every line names the same model
    RELAXED = "relaxed"  #: becomes an error row; lines may name different models


class ChunkState(StrEnum):
    AVAILABLE = "available"
    LEASED = "leased"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class File:
    """A file a client can name. Uploads are blobs; output and error files are views over parts."""

    file_id: str
    tenant: str
    purpose: str  #: "batch" or "batch_output"
    filename: str
    size_bytes: int
    created_at: float
    sha256: str | None = None  #: of an upload's bytes
    batch_id: str | None = None  #: set on output and error files
    part_kind: str | None = None  #: "output" or "error" when batch_id is set
    deleted: bool = False  #: no longer served, bytes kept while a batch needs them
    lines: int | None = None  #: of an upload: its lines that are not blank
    round: int = 1  #: of an output or error file: the batch's round whose rows it shows
    expires_at: float | None = None  #: deleted then, as by its owner; None: never


@dataclass(frozen=True, slots=True)
class LineError:
    """One entry of a failed batch's ``errors.data``."""

    code: str
    message: str
    param: str | None
    line: int | None  #: 1-based physical line of the upload


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.cached_tokens - other.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """What a set of finished rows adds up to."""

    completed: int = 0
    failed: int = 0
    output_bytes: int = 0  #: JSONL bytes of the completed rows, newlines included
    error_bytes: int = 0  #: the same of the failed rows
    usage: Usage = Usage()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.completed + other.completed,
            self.failed + other.failed,
            self.output_bytes + other.output_bytes,
            self.error_bytes + other.error_bytes,
            self.usage + other.usage,
        )

    def __sub__(self, other: Tally) -> Tally:
        return Tally(
            self.completed - other.completed,
            self.failed - other.failed,
            self.output_bytes - other.output_bytes,
            self.error_bytes - other.error_bytes,
            self.usage - other.usage,
        )


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One answered (or unanswerable) request, as a row of a part."""

    position: int  #: place in the batch's dispatch order, from 0
    index: int  #: place in the input file, from 0, blank lines not counted
    custom_id: str | None
    status_code: int | None  #: None when the request was never answered
    error_code: str | None
    error_message: str | None
    model: str | None
    text: str | None  #: the answer's text where the endpoint has one
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    line: bytes  #: the exact output JSONL line, without its newline
    attempt: int  #: from 1
    engine_id: str
    started_at: float
    finished_at: float

    @property
    def completed(self) -> bool:
        return self.status_code is not None and self.status_code < 400


@dataclass(frozen=True, slots=True)
class PartSlice:
    """The rows of one part that belong to one lease."""

    chunk_id: int
    token: int
    first: int  #: the chunk's first position
    rows: int  #: bitmap: bit i is position ``first + i``
    tally: Tally


@dataclass(frozen=True, slots=True)
class PartFile:
    """A Parquet file of finished rows, sorted by ``index``. It counts once the manifest lists it."""

    part_id: str
    path: str  #: relative to the home
    size_bytes: int
    rows: int
    checksum: str  #: "crc32c:…" or "sha256:…" of the file's bytes
    level: int = 0  #: 0 as written by an engine; compaction of level n writes level n + 1
    masked: tuple[int, ...] = ()  #: positions present in the file that were refused and never served
    round: int = 1  #: the batch's round in which its rows were committed


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of one batch's positions: the unit of lease and retry."""

    chunk_id: int
    batch_id: str
    first: int  #: first position
    count: int
    state: ChunkState
    token: int  #: fencing token of the newest lease; every lease takes the next of one durable counter
    engine_id: str | None = None
    covered: int = 0  #: bitmap of committed rows
    attempt: int = 1  #: how often it was leased
    exposed: int = 0  #: bitmap of rows that were in flight when an engine died
    suspect: bool = False  #: a group of rows present at two deaths: runs alone, in the quarantine lane
    alone_deaths: int = 0  #: of engines that ran nothing but this one row

    @property
    def missing(self) -> int:
        """Bitmap of the rows that are not committed yet."""
        return ((1 << self.count) - 1) & ~self.covered


@dataclass(frozen=True, slots=True)
class RowSpan:
    """Some of the positions in a stretch of a batch."""

    first: int
    rows: int  #: bitmap: bit i is position ``first + i``
    attempt: int  #: the highest attempt among them

    @property
    def count(self) -> int:
        """Positions from the first to the last one meant."""
        return self.rows.bit_length()


@dataclass(frozen=True, slots=True)
class Redrive:
    """The rows whose results of earlier rounds no longer count, because round ``round`` runs them again."""

    batch_id: str
    round: int
    spans: tuple[RowSpan, ...]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Something that happened to a batch, to an engine, or to one on the other. Never a prompt's text."""

    entry_id: int
    at: float
    kind: str
    message: str
    batch_id: str | None = None
    engine_id: str | None = None


@dataclass(frozen=True, slots=True)
class ModelRate:
    """How fast the engines of a model have worked lately, taken together."""

    model: str
    tokens_per_s: float  #: of intake's estimates, so that a backlog divided by it is a time
    deviation: float  #: relative, of that rate from minute to minute
    rows_per_s: float
    measured_at: float


@dataclass(frozen=True, slots=True)
class ModelSpan:
    """The rows of a batch that name one model: a stretch of positions that no chunk crosses."""

    model: str
    first: int  #: first position
    count: int
    expected_tokens: int  #: estimate over all its rows
    cut: int = 0  #: so many rows, from the first, have been cut into chunks
    finished: int = 0

    @property
    def cursor(self) -> int:
        """The first position that is not cut yet."""
        return self.first + self.cut

    @property
    def uncut(self) -> int:
        return self.count - self.cut

    @property
    def expected_row_tokens(self) -> float:
        """Of one row, on average."""
        return self.expected_tokens / self.count if self.count else 0.0

    @property
    def expected_tokens_left(self) -> float:
        return self.expected_row_tokens * (self.count - self.finished)

    def holds(self, position: int) -> bool:
        return self.first <= position < self.first + self.count


@dataclass(frozen=True, slots=True)
class Batch:
    batch_id: str
    tenant: str
    input_file_id: str
    endpoint: str
    completion_window: str
    completion_window_s: float
    created_at: float
    status: BatchStatus = BatchStatus.VALIDATING
    model: str | None = None  #: None until it is validated, and when its rows name several
    metadata: dict[str, str] | None = None
    priority: int = 0
    request_key: str = ""  #: digest of tenant, file and parameters
    idempotency_key: str | None = None
    output_file_id: str = ""  #: drawn at creation, shown once there is such a file
    error_file_id: str = ""
    total: int = 0
    cursor: int = 0  #: so many rows have been cut into chunks: of one model, the positions below it
    tally: Tally = Tally()
    errors: tuple[LineError, ...] = ()
    expected_tokens: int = 0  #: estimate over all rows, prompt and completion
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    completed_at: float | None = None
    failed_at: float | None = None
    expired_at: float | None = None
    cancelling_at: float | None = None
    cancelled_at: float | None = None
    round: int = 1  #: one more with every retry
    paused_at: float | None = None  #: None while it runs
    paused_s: float = 0.0  #: since its creation, not counted: pauses, earlier rounds, jumps of the clock
    output_expires_after_s: int | None = None  #: of its output and error files, from their creation on
    validation: Validation | None = None  #: None: as the server's setting says when it is taken in
    spans: tuple[ModelSpan, ...] = ()  #: in order, without gaps; empty when all rows name ``model``
    #: among all batches as they came, from 1, whatever the clock said; 0: an older version did not say
    place: int = 0

    @property
    def by_model(self) -> tuple[ModelSpan, ...]:
        """What each model has of the batch; of a batch of one model, all of it."""
        if self.spans or self.model is None:
            return self.spans
        whole = ModelSpan(self.model, 0, self.total, self.expected_tokens, self.cursor, self.finished_rows)
        return (whole,)

    @property
    def finished_rows(self) -> int:
        return self.tally.completed + self.tally.failed

    @property
    def active(self) -> bool:
        return self.status not in TERMINAL

    @property
    def expires_at(self) -> float:
        """When its completion window has passed; a pause that goes on is not counted in yet."""
        return self.created_at + self.completion_window_s + self.paused_s

    def span_at(self, position: int) -> ModelSpan:
        return next(span for span in self.by_model if span.holds(position))

    @property
    def ended_at(self) -> float | None:
        """None while it is active."""
        if self.active:
            return None
        ends = (self.completed_at, self.failed_at, self.expired_at, self.cancelled_at)
        return max((at for at in ends if at is not None), default=self.created_at)
