"""An engine as a detached Ray actor, pinned to its GPUs: a thread with an EngineLoop, nothing else.

When the engine dies the process ends and Ray starts the actor again: a fresh process is the only clean one.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import ray

from raybatch.actors.engine_choice import make_engine
from raybatch.actors.engine_loop import EngineLoop
from raybatch.actors.engine_names import engine_names
from raybatch.actors.gateway import NAMESPACE
from raybatch.actors.gpu_guard import GpuGuard
from raybatch.actors.own_loop import OwnLoop
from raybatch.actors.scheduler_handle import RayScheduler
from raybatch.actors.versions import code_version
from raybatch.config import Home, Settings
from raybatch.telemetry import log_to_stderr

log = logging.getLogger(__name__)


class EngineActor:
    def __init__(self, home_root: str, engine_id: str) -> None:
        log_to_stderr()
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as the driver's own tools number them
        self._home = Home.find(home_root)
        self._engine_id = engine_id
        self._loop = OwnLoop("engine")
        self._engine: EngineLoop | None = None
        self._loop.start(self._run())

    async def wake(self) -> None:
        if self._engine is not None:
            self._loop.soon(self._engine.wake)

    async def version(self) -> str:
        return code_version()

    async def _run(self) -> None:
        try:
            settings = self._home.load()
            name = next(name for name in engine_names(settings) if name.engine_id == self._engine_id)
            self._engine = EngineLoop(
                lambda model: make_engine(self._home, settings, model, name.number),
                RayScheduler(self._home),
                self._home,
                settings.engine,
                self._engine_id,
                name.models,
                GpuGuard(settings.gpu),
                slot=name.slot,
            )
            why = await self._engine.run()
            log.error("engine %s ends: %s", self._engine_id, why)
        except BaseException:
            log.exception("engine %s broke", self._engine_id)
        finally:
            logging.shutdown()
            os._exit(1)


def ensure_engines(home: Home) -> list[Any]:
    """One actor for each engine the settings ask for; Ray starts a dead one again, here or elsewhere.

    An engine with GPUs waits until a machine has them free; one without is placed at once, on any.
    """
    settings = home.load()
    remote = ray.remote(EngineActor)
    return [
        remote.options(
            name=name.engine_id,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=16,
            num_cpus=0,
            num_gpus=_gpus(settings),
            scheduling_strategy="SPREAD",
        ).remote(str(home.root), name.engine_id)
        for name in engine_names(settings)
    ]


def _gpus(settings: Settings) -> float:
    """A model split over several GPUs needs that many."""
    if not settings.engine.gpus or settings.engine.kind != "vllm":
        return settings.engine.gpus
    split = (settings.vllm_of(model).tensor_parallel_size for model in settings.models)
    return max(settings.engine.gpus, *split)
