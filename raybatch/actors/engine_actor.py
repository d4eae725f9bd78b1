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
from raybatch.actors.gateway import NAMESPACE, engine_ids
from raybatch.actors.own_loop import OwnLoop
from raybatch.actors.scheduler_handle import RayScheduler
from raybatch.actors.versions import code_version
from raybatch.config import Home, Settings
from raybatch.telemetry import log_to_stderr

log = logging.getLogger(__name__)


class EngineActor:
    def __init__(self, home_root: str, engine_id: str) -> None:
        log_to_stderr()
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
            _, model_number, replica = self._engine_id.split("-")
            model = settings.models[int(model_number)]
            self._engine = EngineLoop(
                lambda: make_engine(self._home, settings, model, int(replica)),
                RayScheduler(self._home),
                self._home,
                settings.engine,
                self._engine_id,
                model.names,
            )
            why = await self._engine.run()
            log.error("engine %s ends: %s", self._engine_id, why)
        except BaseException:
            log.exception("engine %s broke", self._engine_id)
        finally:
            logging.shutdown()
            os._exit(1)


def ensure_engines(home: Home) -> list[Any]:
    """One actor for each model and replica of the settings; Ray starts a dead one again."""
    settings = home.load()
    remote = ray.remote(EngineActor)
    return [
        remote.options(
            name=engine_id,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=16,
            num_cpus=0,
            num_gpus=_gpus(settings),
        ).remote(str(home.root), engine_id)
        for engine_id in engine_ids(home)
    ]


def _gpus(settings: Settings) -> float:
    """A model split over several GPUs needs that many."""
    if settings.engine.kind != "vllm" or not settings.engine.gpus:
        return 0
    return max(settings.engine.gpus, settings.vllm.tensor_parallel_size)
