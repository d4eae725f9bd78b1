"""An engine's GPUs as it reports them: read about once a second in a thread, judged with what was before."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

import psutil

from raybatch.core.fitness import FIT, GpuLimits, GpuReading, GpuVerdict, judge
from raybatch.gpu.nvml import GpuWatch

READ_MAX_S: Final = 20.0  #: a broken driver may never come back


class GpuGuard:
    def __init__(self, limits: GpuLimits, watch: GpuWatch | None = None) -> None:
        """Without a driver, or a GPU of this process, there is nothing to read and everything is fit."""
        self._limits = limits
        self._watch = watch or GpuWatch.open(own_pids)
        self.readings: tuple[GpuReading, ...] = ()
        self.verdict: GpuVerdict = FIT

    async def look(self) -> None:
        try:
            async with asyncio.timeout(READ_MAX_S):
                self.readings = await asyncio.to_thread(self._watch.read)
        except TimeoutError:
            why = f"the driver has not answered for {READ_MAX_S:.0f} s"
            self.readings = tuple(replace(seen, lost=why) for seen in self.readings)
        self.verdict = judge(self.verdict, self.readings, self._limits)

    async def keep_looking(self, every_s: float, changed: Callable[[], None]) -> None:
        """For ever. ``changed``: called when the verdict is another one."""
        while True:
            before = self.verdict
            await self.look()
            if (self.verdict.fitness, self.verdict.window_share) != (before.fitness, before.window_share):
                changed()
            await asyncio.sleep(every_s)


def own_pids() -> Collection[int]:
    """This process and all that it started: what they hold of a GPU's memory is ours."""
    return {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
