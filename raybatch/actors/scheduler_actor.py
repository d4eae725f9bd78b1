"""The scheduler as a detached Ray actor: a mailbox in front of ``Scheduler``, nothing else.

Its constructor never raises, for Ray would then give the actor up for good.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any

import ray

from raybatch import errors
from raybatch.actors.gateway import NAMESPACE, RayGateway
from raybatch.actors.head import ON_HEAD
from raybatch.actors.metrics import keep_showing
from raybatch.actors.own_loop import OwnLoop
from raybatch.actors.scheduler import Scheduler
from raybatch.actors.sweep import (
    CLOCK_STEADY_S,
    ORPHAN_AGE_S,
    RETENTION_LOOK_S,
    SteadyClock,
    kept,
    lost_its_ledger,
    sweep,
    sweep_uploads,
)
from raybatch.actors.versions import code_version
from raybatch.config import Home
from raybatch.core.commands import Rejection
from raybatch.core.events import Event, RetentionDue
from raybatch.ledger.durable import DurableMemory
from raybatch.storage.audit import audit, uploads
from raybatch.storage.manifest import BatchFiles, Manifest
from raybatch.telemetry import log_to_stderr

SCHEDULER_NAME = "scheduler"
CALLS_AT_ONCE = 1000

log = logging.getLogger(__name__)


class SchedulerActor:
    def __init__(self, home_root: str) -> None:
        log_to_stderr()
        self._home = Home.find(home_root)
        self._loop = OwnLoop("scheduler")
        self._scheduler: Scheduler | None = None
        self._gateway: RayGateway | None = None
        self._up = asyncio.Event()  #: scheduler and gateway are there; the ledger may not be open yet
        self._loop.start(self._run())

    async def ask(self, event: Event) -> Any:
        """The reply's value, or a Rejection: exceptions of ours do not travel through Ray."""
        return await self._loop.do(self._answered("ask", event))

    async def read(self, what: str, *args: Any) -> Any:
        return await self._loop.do(self._answered("read", what, *args))

    async def warm(self) -> None:
        """Once nothing else is being started, which would take the process. Asked too early, it waits."""
        await self._loop.do(self._warm())

    async def version(self) -> str:
        return code_version()

    async def _run(self) -> None:
        try:
            settings = self._home.load()
            gateway = RayGateway(self._home, lambda batch_id: scheduler.known_batch(batch_id))
            scheduler = Scheduler(
                lambda: DurableMemory(self._home.ledger),
                gateway,
                settings.scheduler,
                self._home.root,
                quiet=settings.quiet,
                models=tuple(model.id for model in settings.models),
            )
            gateway.serve(scheduler)
            self._come_up(scheduler, gateway)
            beside = [
                asyncio.create_task(self._sweep(scheduler)),
                asyncio.create_task(self._expire(scheduler)),
                asyncio.create_task(keep_showing(scheduler)),
            ]
            await scheduler.run()
            for task in beside:
                task.cancel()
        except BaseException:
            log.exception("the scheduler's loop ended")
            logging.shutdown()
            os._exit(1)

    def _come_up(self, scheduler: Scheduler, gateway: RayGateway) -> None:
        self._scheduler, self._gateway = scheduler, gateway
        self._up.set()

    async def _sweep(self, scheduler: Scheduler) -> None:
        """At the start and once a day: what the ledger names is there, and what it does not name goes."""
        await scheduler.wait_ready()
        while True:
            try:
                await self._audit(scheduler)
                if lost_its_ledger(self._home, scheduler.known()):
                    log.error(
                        "the ledger knows no batch, but %s holds results: nothing is swept. "
                        "If the ledger was lost, stop and use `raybatch restore`",
                        self._home.root,
                    )
                    return
                wanted = kept(scheduler.known())
                removed = await asyncio.to_thread(sweep, self._home, wanted, time.time())
                if removed:
                    log.info("swept %d orphaned files", len(removed))
            except OSError as error:
                log.warning("the sweep stopped: %s", error)
            await asyncio.sleep(ORPHAN_AGE_S)

    async def _audit(self, scheduler: Scheduler) -> None:
        rows = await scheduler.read("manifest", None)
        batches = tuple(BatchFiles(one.batch, None, one.parts) for one in rows)
        named = tuple(uploads(scheduler.known().files.values()))
        for finding in await asyncio.to_thread(audit, self._home.root, Manifest(batches), False, named):
            log.error("audit: %s", finding)

    async def _expire(self, scheduler: Scheduler) -> None:
        """Every few minutes, once the wall clock can be believed."""
        await scheduler.wait_ready()
        clock = SteadyClock()
        while True:
            if clock.steady_s(time.time(), time.monotonic()) >= CLOCK_STEADY_S:
                await scheduler.ask(RetentionDue())
                await asyncio.to_thread(sweep_uploads, self._home, time.time())
            await asyncio.sleep(RETENTION_LOOK_S)

    async def _warm(self) -> None:
        await self._up.wait()
        assert self._gateway is not None
        self._gateway.warm()

    async def _answered(self, call: str, *args: Any) -> Any:
        if self._scheduler is None:
            return Rejection("Unavailable", "The scheduler is starting.", retry_after_s=1)
        try:
            return await getattr(self._scheduler, call)(*args)
        except errors.RaybatchError as error:
            kind = type(error).__name__
            retry_after_s = error.retry_after_s if isinstance(error, errors.Refused) else None
            return Rejection(kind, error.message, error.param, error.code, retry_after_s)


def ensure_scheduler(home: Home) -> Any:
    """The one scheduler of this cluster, created when there is none, recycled when its code is old."""
    remote = ray.remote(SchedulerActor).options(
        name=SCHEDULER_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=CALLS_AT_ONCE,
        num_cpus=0,
        resources=ON_HEAD,
    )
    return remote.remote(str(home.root))
