"""Which processes may use which cores, and what they used: a fair race on a machine with few of them.

Without a GPU vLLM's worker computes on CPU cores, and whatever else runs there slows it. So the cores are
divided: the workers, of whom only one computes at a time, have theirs; everything else has the others.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import psutil

WORKER: Final = "worker"  #: computes
ENGINE_CORE: Final = "engine-core"  #: vLLM's scheduler
VLLM_TITLES: Final = {"VLLM::Worker": WORKER, "VLLM::EngineCore": ENGINE_CORE}

Processes = Mapping[int, str]  #: pid to kind, which is one of the two above or anything else


@dataclass(frozen=True)
class Cores:
    workers: tuple[int, ...]  #: of vLLM's workers alone
    others: tuple[int, ...]

    @property
    def bind(self) -> str:
        """As VLLM_CPU_OMP_THREADS_BIND."""
        return ",".join(map(str, self.workers))

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """This thread keeps off the workers' cores until the block ends."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.others)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def pin(self, processes: Processes) -> None:
        """Every thread of them; what they start afterwards inherits it."""
        for pid, kind in processes.items():
            with contextlib.suppress(psutil.Error):
                for thread in psutil.Process(pid).threads():
                    with contextlib.suppress(ProcessLookupError):
                        os.sched_setaffinity(thread.id, self.workers if kind == WORKER else self.others)


def divided() -> Cores | None:
    """Half of the cores for the workers; None on a machine with a single one."""
    mine = sorted(os.sched_getaffinity(0))
    half = len(mine) // 2
    return Cores(tuple(mine[half:]), tuple(mine[:half])) if half else None


def kind_of(command: str) -> str | None:
    """Of vLLM's own processes, which name themselves."""
    return next((kind for title, kind in VLLM_TITLES.items() if command.startswith(title)), None)


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class CpuMeter:
    """CPU seconds used since it was made, of processes that are looked at again later."""

    def __init__(self, processes: Processes) -> None:
        self._before_s = {pid: _used_s(pid) for pid in processes}

    def used_s(self, processes: Processes) -> dict[str, float]:
        """By kind. New ones count whole; what ended meanwhile does not count."""
        used: defaultdict[str, float] = defaultdict(float)
        for pid, kind in processes.items():
            used[kind] += max(0.0, _used_s(pid) - self._before_s.get(pid, 0.0))
        return dict(used)


def _used_s(pid: int) -> float:
    """Since its start; 0 when it is gone."""
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0
