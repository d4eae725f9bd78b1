"""Processes for chores. One that has ended its chore waits for the next: it took about 0.9 s to start.

A chore that takes its process down, or is told to stop, costs nothing but that process. A process that died
while it waited is noticed before it is given a chore.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from typing import Any, Final, TypeVar

import ray

from raybatch.actors.head import ON_HEAD
from raybatch.telemetry import log_to_stderr

AT_ONCE: Final = 2
IDLE_MAX_S: Final = 600.0  #: one keeps some 100 MB
PEAK_BYTES_MAX: Final = 512 << 20  #: one that has ever held more is not kept: what it freed stays its own

log = logging.getLogger(__name__)

T = TypeVar("T")


class ChoreProcesses:
    """On the scheduler's event loop."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._idle: Any = None  #: at most one is kept
        self._idle_ends: asyncio.TimerHandle | None = None

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """What ``work``, a function at the top of a module, answers there. Raises what Ray does."""
        async with self._slots:
            return await self.run_beside(work, *args)

    async def run_beside(self, work: Callable[..., T], *args: Any) -> T:
        """Beside the chores: it neither waits for a slot nor takes one."""
        process = await self._take()
        keep = False
        try:
            answer: T
            answer, peak_bytes = await process.run.remote(work, args)
            keep = peak_bytes <= PEAK_BYTES_MAX
            return answer
        finally:
            if keep and self._idle is None:
                self._keep(process)
            else:
                ray.kill(process)

    def warm(self) -> None:
        """Start one, unless one waits already."""
        if self._idle is None:
            self._keep(_start())

    async def _take(self) -> Any:
        """The one that waits, if it still lives; else a fresh one."""
        process, self._idle = self._idle, None
        if self._idle_ends is not None:
            self._idle_ends.cancel()
        if process is None:
            return _start()
        try:
            await process.lives.remote()
        except ray.exceptions.RayActorError as death:
            log.info("the process that waited for a chore is gone: %s", death)
            return _start()
        return process

    def _keep(self, process: Any) -> None:
        self._idle = process
        self._idle_ends = asyncio.get_running_loop().call_later(IDLE_MAX_S, self._end_idle)

    def _end_idle(self) -> None:
        process, self._idle = self._idle, None
        if process is not None:
            ray.kill(process)


class ChoreActor:
    def __init__(self) -> None:
        log_to_stderr()

    def lives(self) -> None:
        """Answers at all."""

    def run(self, work: Callable[..., T], args: tuple[Any, ...]) -> tuple[T, int]:
        """With the most bytes that the process ever held."""
        return work(*args), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _start() -> Any:
    return ray.remote(num_cpus=0, max_restarts=0, resources=ON_HEAD)(ChoreActor).remote()
