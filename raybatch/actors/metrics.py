"""What raybatch tells Ray's own metrics registry: its dashboard and any Prometheus see it. One table of all.

Gauges come from the scheduler's overview, so that `/health`, `raybatch status` and a dashboard cannot
disagree; counters from decisions that are remembered; histograms from whoever times something. Labels are
bounded: engines, GPUs, models of the configuration, words of this file; nothing a tenant wrote. Refuses to
matter: what is counted is never read back, and a process that is not Ray's counts nothing.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from raybatch.core import changes as c
from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.fitness import Fitness
from raybatch.core.model import Batch, BatchStatus, PartSlice
from raybatch.errors import RaybatchError

if TYPE_CHECKING:
    from raybatch.actors.reads import EngineView, Overview
    from raybatch.actors.scheduler import Scheduler
    from raybatch.core.decision import Decision

EVERY_S: Final = 5.0
FITNESS: Final = {Fitness.FIT: 0, Fitness.STRAINED: 1, Fitness.UNFIT: 2}
SECONDS: Final = (
    0.001,
    0.003,
    0.01,
    0.03,
    0.1,
    0.3,
    1.0,
    3.0,
    10.0,
    30.0,
)  #: bounds of a histogram's buckets
SEVERAL: Final = "several"  #: the model of a batch whose rows name more than one

log = logging.getLogger(__name__)


class Kind(StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    kind: Kind
    words: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    labels: dict[str, str]
    value: float


class Ended(StrEnum):
    """What the life of an engine came to before it was started again."""

    DIED = "died"  #: it said so: its process was lost, or it hung
    FAILED = "failed"  #: the model could not be loaded
    STOPPED = "stopped"  #: on purpose, such as a slot for another model
    KILLED = "killed"  #: it had no last word


ENDS: Final = {  #: by the last phase of which it was heard
    e.EnginePhase.DIED: Ended.DIED,
    e.EnginePhase.FAILED: Ended.FAILED,
    e.EnginePhase.STOPPED: Ended.STOPPED,
}
#: Why a batch is not taken in, as the answer's ``code`` says; another one is counted as "other".
REFUSALS: Final = (
    *("disk_low", "draining", "file_too_large", "gpu_unfit", "queue_full", "token_limit_exceeded"),
    *("too_many_batches", "too_many_tasks", "other"),
)
OUTCOMES: Final = ("completed", "failed")
TOKEN_KINDS: Final = ("prompt", "cached", "completion")

_MODEL: Final = ("model",)
_ENGINE: Final = ("engine",)
_GPU: Final = ("engine", "gpu")
_gauge, _counter, _histogram = Kind.GAUGE, Kind.COUNTER, Kind.HISTOGRAM

METRICS: Final[dict[str, Metric]] = {
    "raybatch_closed": Metric(_gauge, "1 while new batches are refused."),
    "raybatch_disk_free_bytes": Metric(_gauge, "Free bytes where the home lies."),
    "raybatch_batches": Metric(_gauge, "Batches by status.", ("status",)),
    "raybatch_queued_requests": Metric(_gauge, "Requests accepted and not finished.", _MODEL),
    "raybatch_queue_oldest_age_seconds": Metric(
        _gauge, "Since the oldest batch with unfinished requests was created.", _MODEL
    ),
    "raybatch_dead_letters": Metric(_gauge, "Failed requests of the batches that are kept.", _MODEL),
    "raybatch_engine_up": Metric(_gauge, "1 while its model is loaded and it answers.", _ENGINE),
    "raybatch_engine_heartbeat_age_seconds": Metric(_gauge, "Since it was last heard of.", _ENGINE),
    "raybatch_engine_requests_running": Metric(_gauge, "Requests in flight.", _ENGINE),
    "raybatch_engine_window_requests": Metric(_gauge, "Requests it may have in flight.", _ENGINE),
    "raybatch_engine_requests_per_second": Metric(_gauge, "Requests finished a second.", _ENGINE),
    "raybatch_engine_tokens_per_second": Metric(_gauge, "Tokens generated a second.", _ENGINE),
    "raybatch_engine_kv_cache_usage_ratio": Metric(_gauge, "Share of the KV cache in use.", _ENGINE),
    "raybatch_engine_fitness": Metric(
        _gauge, "0 fit, 1 strained, 2 unfit: the verdict on its GPUs.", _ENGINE
    ),
    "raybatch_gpu_temperature_celsius": Metric(_gauge, "As the driver tells it.", _GPU),
    "raybatch_gpu_memory_total_bytes": Metric(_gauge, "Of the card.", _GPU),
    "raybatch_gpu_memory_used_bytes": Metric(_gauge, "By everybody.", _GPU),
    "raybatch_gpu_memory_others_bytes": Metric(_gauge, "By processes that are not raybatch's.", _GPU),
    "raybatch_gpu_power_watts": Metric(_gauge, "Drawn now.", _GPU),
    "raybatch_gpu_utilization_ratio": Metric(_gauge, "Share of time with something running on it.", _GPU),
    "raybatch_gpu_lost": Metric(_gauge, "1 once the driver cannot reach it.", _GPU),
    "raybatch_requests_total": Metric(_counter, "Requests whose result is committed.", (*_MODEL, "outcome")),
    "raybatch_tokens_total": Metric(_counter, "Tokens of committed results.", (*_MODEL, "kind")),
    "raybatch_lease_expiries_total": Metric(_counter, "Leases nobody renewed in time."),
    "raybatch_stale_commits_total": Metric(_counter, "Slices of parts refused: leased anew meanwhile."),
    "raybatch_engine_restarts_total": Metric(_counter, "Starts after the first one.", (*_ENGINE, "reason")),
    "raybatch_admission_refusals_total": Metric(_counter, "Batches not taken in.", ("reason",)),
    "raybatch_flush_duration_seconds": Metric(_histogram, "To write one part to disk.", _ENGINE),
    "raybatch_commit_duration_seconds": Metric(_histogram, "From a written part to its verdict.", _ENGINE),
    "raybatch_ledger_commit_duration_seconds": Metric(_histogram, "Of a turn: journal, fsync, ledger."),
}


def observe(name: str, seconds: float, **labels: str) -> None:
    """Into a histogram of this process."""
    registry = _registry()
    if registry is not None:
        registry.metric(name).observe(seconds, tags=labels)


async def keep_showing(scheduler: Scheduler) -> None:
    """For ever; a look that fails is left out."""
    registry = _own_registry()
    counts, gauges = Counts(registry, scheduler.known_batch), Gauges(registry)
    scheduler.witness = counts
    await scheduler.wait_ready()
    while True:
        try:
            overview: Overview = await scheduler.read("overview")
            counts.begin(overview)
            models = [model.model for model in overview.models]
            queue = queue_figures(models, scheduler.known().batches.values(), time.time())
            gauges.show([*figures(overview), *queue])
        except RaybatchError as error:
            log.debug("no metrics this time: %s", error.message)
        await asyncio.sleep(EVERY_S)


# -- counters ----------------------------------------------------------------------------------------------


class Counts:
    """The scheduler's witness: hears of every decision once it is remembered."""

    def __init__(self, registry: Registry, batch: Callable[[str], Batch | None]) -> None:
        """``batch``: a remembered one, by id."""
        self._registry = registry
        self._batch = batch
        self._lives: dict[str, tuple[float, Ended]] = {}  #: by engine: its birth, and what its end would be
        self._begun: set[tuple[str, tuple[str, ...]]] = set()

    def decided(self, event: e.Event, decision: Decision) -> None:
        try:
            for figure in self.counted(event, decision):
                if figure.value:
                    self._registry.metric(figure.name).inc(figure.value, tags=figure.labels)
        except Exception:  # whatever is wrong with counting, work goes on
            log.exception("not counted: %s", type(event).__name__)

    def remembered(self, took_s: float) -> None:
        """A turn with changes."""
        self._registry.metric("raybatch_ledger_commit_duration_seconds").observe(took_s)

    def begin(self, overview: Overview) -> None:
        """At 0, so that the first increase is seen as one."""
        for name, labels in starts(overview):
            if (name, labels) not in self._begun:
                self._begun.add((name, labels))
                self._registry.metric(name).begin(dict(zip(METRICS[name].labels, labels, strict=True)))

    def counted(self, event: e.Event, decision: Decision) -> Iterator[Figure]:
        match event:
            case e.PartWritten():
                verdicts = next((found.value for found in _replies(decision)), ())
                stale = sum(verdict is cmd.Verdict.STALE for verdict in cast(Iterable[object], verdicts))
                yield Figure("raybatch_stale_commits_total", {}, stale)
            case e.BatchAsked():
                refused = (found.value for found in _replies(decision))
                yield from (_refusal(found.code) for found in refused if isinstance(found, cmd.Rejection))
            case e.Tick():
                expired = sum(isinstance(change, c.LeaseReleased) for change in decision.changes)
                yield Figure("raybatch_lease_expiries_total", {}, expired)
        for change in decision.changes:
            yield from self._of_change(change)

    def _of_change(self, change: c.Change) -> Iterator[Figure]:
        match change:
            case c.PartCommitted(batch_id, _, slices):
                batch = self._batch(batch_id)
                if batch is not None:  # else it was deleted within the same turn
                    yield from (figure for piece in slices for figure in _of_slice(batch, piece))
            case c.BatchFailed(_, errors) if errors and errors[0].code == "token_limit_exceeded":
                yield _refusal("token_limit_exceeded")
            case c.EngineSeen(report):
                yield from self._of_report(report)

    def _of_report(self, report: e.EngineReport) -> Iterator[Figure]:
        known = self._lives.get(report.engine_id)
        if known is not None and known[0] != report.incarnation:
            labels = {"engine": report.engine_id, "reason": known[1].value}
            yield Figure("raybatch_engine_restarts_total", labels, 1)
        self._lives[report.engine_id] = report.incarnation, ENDS.get(report.phase, Ended.KILLED)


def starts(overview: Overview) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of counters with the values of their labels."""
    yield from (("raybatch_lease_expiries_total", ()), ("raybatch_stale_commits_total", ()))
    yield from (("raybatch_admission_refusals_total", (reason,)) for reason in REFUSALS)
    for model in overview.models:
        yield from (("raybatch_requests_total", (model.model, outcome)) for outcome in OUTCOMES)
        yield from (("raybatch_tokens_total", (model.model, kind)) for kind in TOKEN_KINDS)
    for engine in overview.engines:
        yield from (("raybatch_engine_restarts_total", (engine.engine_id, reason)) for reason in Ended)


def _replies(decision: Decision) -> Iterator[cmd.Reply]:
    return (command for command in decision.commands if isinstance(command, cmd.Reply))


def _refusal(code: str | None) -> Figure:
    return Figure("raybatch_admission_refusals_total", {"reason": code if code in REFUSALS else "other"}, 1)


def _of_slice(batch: Batch, piece: PartSlice) -> Iterator[Figure]:
    model, tally = batch.span_at(piece.first).model, piece.tally
    for outcome, rows in zip(OUTCOMES, (tally.completed, tally.failed), strict=True):
        yield Figure("raybatch_requests_total", {"model": model, "outcome": outcome}, rows)
    usage = (tally.usage.prompt_tokens, tally.usage.cached_tokens, tally.usage.completion_tokens)
    for kind, tokens in zip(TOKEN_KINDS, usage, strict=True):
        yield Figure("raybatch_tokens_total", {"model": model, "kind": kind}, tokens)


# -- gauges ------------------------------------------------------------------------------------------------


class Gauges:
    """A gauge stands until it is set again, so what has gone is set to 0."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._shown: set[tuple[str, tuple[tuple[str, str], ...]]] = set()

    def show(self, found: Iterable[Figure]) -> None:
        shown = set()
        for figure in found:
            self._registry.metric(figure.name).set(figure.value, tags=figure.labels)
            shown.add((figure.name, tuple(sorted(figure.labels.items()))))
        for name, labels in self._shown - shown:
            self._registry.metric(name).set(0.0, tags=dict(labels))
        self._shown = shown


def figures(overview: Overview) -> Iterator[Figure]:
    yield Figure("raybatch_closed", {}, float(overview.closed is not None))
    if overview.disk_free_bytes is not None:
        yield Figure("raybatch_disk_free_bytes", {}, overview.disk_free_bytes)
    for status in BatchStatus:
        yield Figure("raybatch_batches", {"status": status.value}, overview.batches.get(status.value, 0))
    for model in overview.models:
        yield Figure("raybatch_queued_requests", {"model": model.model}, model.queued_rows)
    for engine in overview.engines:
        yield from _of_engine(engine)


def queue_figures(models: Iterable[str], batches: Iterable[Batch], now_at: float) -> Iterator[Figure]:
    """How long each model's oldest work waits, and what came to nothing. ``models``: shown though idle."""
    age_s = dict.fromkeys(models, 0.0)
    failed = dict.fromkeys(age_s, 0)
    for batch in batches:
        if batch.tally.failed:
            model = batch.model or SEVERAL
            failed[model] = failed.get(model, 0) + batch.tally.failed
        if batch.status is BatchStatus.IN_PROGRESS:
            for span in batch.by_model:
                if span.finished < span.count:
                    age_s[span.model] = max(age_s.get(span.model, 0.0), now_at - batch.created_at)
    for model, seconds in age_s.items():
        yield Figure("raybatch_queue_oldest_age_seconds", {"model": model}, seconds)
    for model, rows in failed.items():
        yield Figure("raybatch_dead_letters", {"model": model}, rows)


def _of_engine(engine: EngineView) -> Iterator[Figure]:
    label = {"engine": engine.engine_id}
    working = not engine.lost
    yield Figure("raybatch_engine_up", label, float(working and engine.phase is e.EnginePhase.READY))
    yield Figure("raybatch_engine_heartbeat_age_seconds", label, engine.silent_s)
    yield Figure("raybatch_engine_requests_running", label, engine.running if working else 0)
    yield Figure("raybatch_engine_window_requests", label, engine.window)
    yield Figure("raybatch_engine_requests_per_second", label, engine.rows_per_s if working else 0.0)
    yield Figure("raybatch_engine_tokens_per_second", label, engine.tokens_per_s if working else 0.0)
    yield Figure("raybatch_engine_kv_cache_usage_ratio", label, engine.kv_cache_usage)
    yield Figure("raybatch_engine_fitness", label, FITNESS[engine.verdict.fitness])
    for gpu in engine.gpus:
        of_gpu = {**label, "gpu": gpu.uuid}
        yield Figure("raybatch_gpu_temperature_celsius", of_gpu, gpu.temperature_c)
        yield Figure("raybatch_gpu_memory_total_bytes", of_gpu, gpu.memory_total_bytes)
        yield Figure("raybatch_gpu_memory_used_bytes", of_gpu, gpu.memory_used_bytes)
        yield Figure("raybatch_gpu_memory_others_bytes", of_gpu, gpu.memory_others_bytes)
        yield Figure("raybatch_gpu_power_watts", of_gpu, gpu.power_w)
        yield Figure("raybatch_gpu_utilization_ratio", of_gpu, gpu.utilization)
        yield Figure("raybatch_gpu_lost", of_gpu, float(gpu.lost is not None))


# -- Ray's registry ----------------------------------------------------------------------------------------


class Registry:
    """The table's metrics as Ray's, each made when it is first needed. Only in a process of Ray's."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def metric(self, name: str) -> Any:
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = _made(name, METRICS[name])
        return found


def _made(name: str, metric: Metric) -> Any:
    from ray.util import metrics

    class Counter(metrics.Counter):  # type: ignore[misc]
        def begin(self, labels: dict[str, str]) -> None:
            """Ray's own ``inc`` refuses 0, and without it the first increase would not be seen as one."""
            self._record(0.0, labels)

    match metric.kind:
        case Kind.GAUGE:
            return metrics.Gauge(name, metric.words, metric.labels)
        case Kind.COUNTER:
            return Counter(name, metric.words, metric.labels)
        case Kind.HISTOGRAM:
            return metrics.Histogram(name, metric.words, list(SECONDS), metric.labels)


@cache
def _own_registry() -> Registry:
    return Registry()


def _registry() -> Registry | None:
    """Of this process; None where Ray was never started, as in tests of the loops alone."""
    ray = sys.modules.get("ray")
    return _own_registry() if ray is not None and ray.is_initialized() else None
