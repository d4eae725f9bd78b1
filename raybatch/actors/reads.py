"""What may be read: answers from the last remembered snapshot, at once, without waiting behind a commit.

Every function is a pure look at the snapshot. Another tenant's id answers exactly like an unknown one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from raybatch.core.commands import Rejection
from raybatch.core.estimate import Estimate
from raybatch.core.events import EnginePhase, QuietMode
from raybatch.core.fitness import GpuReading, GpuVerdict
from raybatch.core.model import Batch, BatchStatus, File, LogEntry, ModelRate, PartFile, Redrive
from raybatch.core.rounds import visible_parts
from raybatch.core.state import EngineEntry, Image

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: tuple[T, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch with what is known about its pace right now."""

    batch: Batch
    rows_per_s: float = 0.0  #: committed over the last half minute
    tokens_per_s: float = 0.0  #: completion tokens
    eta: Estimate | None = None  #: to the last row; None while unknown, and unless it is running
    all_paused: bool = False  #: it waits because everything does


@dataclass(frozen=True, slots=True)
class BatchRows:
    """A batch and the files its committed rows lie in, of all rounds."""

    batch: Batch
    parts: tuple[PartFile, ...]
    redrives: tuple[Redrive, ...] = ()

    def visible(self, round_: int | None = None) -> tuple[PartFile, ...]:
        """The files as readers of a round (the newest unless given) are to see them."""
        return visible_parts(self.parts, self.redrives, round_ or self.batch.round)


@dataclass(frozen=True, slots=True)
class EngineView:
    engine_id: str
    models: tuple[str, ...]
    phase: EnginePhase
    silent_s: float  #: since its last report
    lost: bool
    pid: int
    child_pids: tuple[int, ...]
    running: int
    window: int
    held_rows: int  #: leased and not committed yet
    rows_per_s: float
    tokens_per_s: float
    error: str | None
    slot: bool
    batches: tuple[str, ...]  #: whose rows it holds
    kv_cache_usage: float  #: 0..1
    gpus: tuple[GpuReading, ...]
    verdict: GpuVerdict


@dataclass(frozen=True, slots=True)
class ModelView:
    """``state``: ready, loading, failed, waiting (for a slot that serves another model), or absent."""

    model: str
    state: str
    engines: tuple[str, ...]  #: that hold it, or load it
    queued_rows: int
    rate: ModelRate | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Overview:
    """``state``: serving, paused, quiet, draining or disk_full. ``commits``: since the scheduler's start."""

    version: str
    pid: int
    state: str
    up_s: float
    commits: int
    engines: tuple[EngineView, ...]
    batches: dict[str, int]  #: by status
    queued_rows: int  #: accepted and not finished
    closed: Rejection | None  #: why nothing new is taken in
    quiet: QuietMode | None
    disk_free_bytes: int | None  #: None until it was looked at
    models: tuple[ModelView, ...]


@dataclass(slots=True)
class Remembered:
    """The durable entities as of the last commit. A reader never sees half a change."""

    files: dict[str, File] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    parts: dict[str, dict[str, PartFile]] = field(default_factory=dict)
    redrives: dict[str, tuple[Redrive, ...]] = field(default_factory=dict)  #: by batch, oldest first
    log: dict[int, LogEntry] = field(default_factory=dict)
    rates: dict[str, ModelRate] = field(default_factory=dict)
    all_paused: bool = False

    def take(self, images: tuple[Image, ...]) -> None:
        for image in images:
            entity = image.entity
            if image.table == "parts" and image.batch_id is not None:
                parts = self.parts.setdefault(image.batch_id, {})
                if isinstance(entity, PartFile):
                    parts[entity.part_id] = entity
                else:
                    parts.pop(str(image.key), None)
            elif isinstance(entity, File):
                self.files[entity.file_id] = entity
            elif isinstance(entity, Batch):
                self.batches[entity.batch_id] = entity
            elif isinstance(entity, Redrive):
                self.redrives[entity.batch_id] = (*self.redrives.get(entity.batch_id, ()), entity)
            elif isinstance(entity, LogEntry):
                self.log[entity.entry_id] = entity
            elif isinstance(entity, ModelRate):
                self.rates[entity.model] = entity
            elif image.table == "files":
                self.files.pop(str(image.key), None)
            elif image.table == "batches":
                for known in (self.batches, self.parts, self.redrives):
                    known.pop(str(image.key), None)
            elif image.table == "log":
                self.log.pop(int(image.key), None)
            elif image.key == "all_paused":
                self.all_paused = bool(entity)


def file(known: Remembered, tenant: str, file_id: str) -> File | Rejection:
    found = known.files.get(file_id)
    if found is None or found.tenant != tenant or found.deleted:
        return Rejection("NotFound", f"No such File object: {file_id}", "id")
    return found


def files(
    known: Remembered, tenant: str, after: str | None, limit: int, order: str, purpose: str | None
) -> Page[File] | Rejection:
    visible = [
        found
        for found in known.files.values()
        if found.tenant == tenant and not found.deleted and purpose in (None, found.purpose)
    ]
    visible.sort(key=lambda found: found.created_at, reverse=order == "desc")
    return _page(visible, [found.file_id for found in visible], after, limit)


def batch(known: Remembered, tenant: str, batch_id: str) -> Batch | Rejection:
    found = known.batches.get(batch_id)
    if found is None or found.tenant != tenant:
        return Rejection("NotFound", f"No batch found with id '{batch_id}'.")
    return found


def batches(known: Remembered, tenant: str, after: str | None, limit: int) -> Page[Batch] | Rejection:
    visible = [found for found in known.batches.values() if found.tenant == tenant]
    visible.sort(key=lambda found: found.created_at, reverse=True)
    return _page(visible, [found.batch_id for found in visible], after, limit)


def rows(known: Remembered, tenant: str, batch_id: str) -> BatchRows | Rejection:
    found = batch(known, tenant, batch_id)
    if isinstance(found, Rejection):
        return found
    return _rows(known, found)


def log(known: Remembered, tenant: str, batch_id: str) -> tuple[LogEntry, ...] | Rejection:
    """Of one batch, oldest first."""
    found = batch(known, tenant, batch_id)
    if isinstance(found, Rejection):
        return found
    return tuple(entry for entry in known.log.values() if entry.batch_id == batch_id)


def whole_log(known: Remembered) -> tuple[LogEntry, ...]:
    """Of all batches, all engines and the server itself, oldest first."""
    return tuple(known.log.values())


def manifest(known: Remembered, tenant: str | None) -> tuple[BatchRows, ...]:
    """Every batch with its parts, oldest first; of all tenants when ``tenant`` is None."""
    return tuple(_rows(known, found) for found in known.batches.values() if tenant in (None, found.tenant))


def _rows(known: Remembered, found: Batch) -> BatchRows:
    parts = tuple(known.parts.get(found.batch_id, {}).values())
    return BatchRows(found, parts, known.redrives.get(found.batch_id, ()))


def engine_view(entry: EngineEntry, held_rows: int, batches: tuple[str, ...], now_mono: float) -> EngineView:
    report = entry.report
    return EngineView(
        engine_id=report.engine_id,
        models=report.models,
        phase=report.phase,
        silent_s=now_mono - entry.seen_at_mono,
        lost=entry.lost,
        pid=report.pid,
        child_pids=report.child_pids,
        running=report.running,
        window=report.window,
        held_rows=held_rows,
        rows_per_s=report.rows_per_s,
        tokens_per_s=report.tokens_per_s,
        error=report.error,
        slot=report.slot,
        batches=batches,
        kv_cache_usage=report.kv_cache_usage,
        gpus=report.gpus,
        verdict=report.verdict,
    )


def model_view(
    model: str, engines: tuple[EngineView, ...], fault: str | None, known: Remembered
) -> ModelView:
    mine = [engine for engine in engines if model in engine.models and not engine.lost]
    phases = {engine.phase for engine in mine}
    if EnginePhase.READY in phases or EnginePhase.DRAINING in phases:
        state = "ready"
    elif fault is not None:
        state = "failed"
    elif EnginePhase.LOADING in phases:
        state = "loading"
    else:
        state = "waiting" if any(engine.slot and not engine.lost for engine in engines) else "absent"
    waiting = (
        span.count - span.finished
        for found in known.batches.values()
        if found.status is BatchStatus.IN_PROGRESS
        for span in found.by_model
        if span.model == model
    )
    return ModelView(
        model,
        state,
        tuple(engine.engine_id for engine in mine),
        sum(waiting),
        known.rates.get(model),
        fault if state == "failed" else None,
    )


def queued_rows(known: Remembered) -> int:
    return sum(
        found.total - found.finished_rows
        for found in known.batches.values()
        if found.status in (BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING)
    )


def _page(items: list[T], ids: list[str], after: str | None, limit: int) -> Page[T] | Rejection:
    start = 0
    if after is not None:
        if after not in ids:
            return Rejection(
                "BadRequest", f"No object with id '{after}' to list after.", "after", "invalid_value"
            )
        start = ids.index(after) + 1
    return Page(tuple(items[start : start + limit]), len(items) > start + limit)
