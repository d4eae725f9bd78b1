"""The figures of the overview as metrics in Ray's own registry: its dashboard and any Prometheus see them.

One source for all of them, the scheduler's overview, so that `/health`, `raybatch status` and a dashboard
cannot disagree. Labels are bounded: engines, GPUs, models, statuses; nothing a tenant wrote.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ray.util.metrics import Gauge

from raybatch.actors.reads import EngineView, Overview
from raybatch.actors.scheduler import Scheduler
from raybatch.core.fitness import Fitness
from raybatch.core.model import BatchStatus
from raybatch.errors import RaybatchError

EVERY_S: Final = 5.0
FITNESS: Final = {Fitness.FIT: 0, Fitness.STRAINED: 1, Fitness.UNFIT: 2}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    labels: dict[str, str]
    value: float


async def keep_showing(scheduler: Scheduler) -> None:
    """For ever; a look that fails is left out."""
    gauges = Gauges()
    await scheduler.wait_ready()
    while True:
        try:
            gauges.show(await scheduler.read("overview"))
        except RaybatchError as error:
            log.debug("no metrics this time: %s", error.message)
        await asyncio.sleep(EVERY_S)


class Gauges:
    """A gauge stands until it is set again, so what has gone is set to 0."""

    def __init__(self) -> None:
        self._gauges = {
            name: Gauge(name, description=words, tag_keys=labels) for name, (words, labels) in GAUGES.items()
        }
        self._shown: set[tuple[str, tuple[tuple[str, str], ...]]] = set()

    def show(self, overview: Overview) -> None:
        shown = set()
        for figure in figures(overview):
            self._gauges[figure.name].set(figure.value, tags=figure.labels)
            shown.add((figure.name, tuple(sorted(figure.labels.items()))))
        for name, labels in self._shown - shown:
            self._gauges[name].set(0.0, tags=dict(labels))
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


def _of_engine(engine: EngineView) -> Iterator[Figure]:
    label = {"engine": engine.engine_id}
    working = not engine.lost
    yield Figure("raybatch_engine_heartbeat_age_seconds", label, engine.silent_s)
    yield Figure("raybatch_engine_up", label, float(working and engine.phase == "ready"))
    yield Figure("raybatch_engine_rows_per_second", label, engine.rows_per_s if working else 0.0)
    yield Figure("raybatch_engine_tokens_per_second", label, engine.tokens_per_s if working else 0.0)
    yield Figure("raybatch_engine_requests_running", label, engine.running if working else 0)
    yield Figure("raybatch_engine_window", label, engine.window)
    yield Figure("raybatch_engine_kv_cache_usage", label, engine.kv_cache_usage)
    yield Figure("raybatch_engine_fitness", label, FITNESS[engine.verdict.fitness])
    for gpu in engine.gpus:
        of_gpu = {**label, "gpu": gpu.uuid}
        yield Figure("raybatch_gpu_temperature_celsius", of_gpu, gpu.temperature_c)
        yield Figure("raybatch_gpu_memory_used_bytes", of_gpu, gpu.memory_used_bytes)
        yield Figure("raybatch_gpu_memory_others_bytes", of_gpu, gpu.memory_others_bytes)
        yield Figure("raybatch_gpu_power_watts", of_gpu, gpu.power_w)
        yield Figure("raybatch_gpu_utilization", of_gpu, gpu.utilization)


GAUGES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "raybatch_closed": ("1 while new batches are refused.", ()),
    "raybatch_disk_free_bytes": ("Free bytes where the home lies.", ()),
    "raybatch_batches": ("Batches by status.", ("status",)),
    "raybatch_queued_requests": ("Requests accepted and not finished.", ("model",)),
    "raybatch_engine_heartbeat_age_seconds": ("Since the engine was last heard of.", ("engine",)),
    "raybatch_engine_up": ("1 while its model is loaded and it answers.", ("engine",)),
    "raybatch_engine_rows_per_second": ("Requests finished a second.", ("engine",)),
    "raybatch_engine_tokens_per_second": ("Tokens generated a second.", ("engine",)),
    "raybatch_engine_requests_running": ("Requests in flight.", ("engine",)),
    "raybatch_engine_window": ("Requests it may have in flight.", ("engine",)),
    "raybatch_engine_kv_cache_usage": ("Share of the KV cache in use.", ("engine",)),
    "raybatch_engine_fitness": ("0 fit, 1 strained, 2 unfit: the verdict on its GPUs.", ("engine",)),
    "raybatch_gpu_temperature_celsius": ("", ("engine", "gpu")),
    "raybatch_gpu_memory_used_bytes": ("By everybody.", ("engine", "gpu")),
    "raybatch_gpu_memory_others_bytes": ("By processes that are not raybatch's.", ("engine", "gpu")),
    "raybatch_gpu_power_watts": ("", ("engine", "gpu")),
    "raybatch_gpu_utilization": ("0 to 1.", ("engine", "gpu")),
}
