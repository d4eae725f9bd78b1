"""What a running raybatch takes over time, sampled, and how steeply each of it grows.

PSS counts a page that several processes share in equal parts. Ray's own processes are sampled, too.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

import psutil

from jobs.memory import MIB
from raybatch.actors.cluster_facts import processes
from raybatch.config import Home

HOUR_S: Final = 3600.0
AT: Final = "at_s"  #: since the first sample
RAYS_FILES: Final = "files of Ray's"  #: its logs, mostly, where they lie in the home
#: AT, ``journal MiB``, ``ledger MiB``, ``files``, RAYS_FILES; for each role its ``MiB`` and ``descriptors``
Sample = dict[str, float]


class Sampler:
    """Samples in a thread until the block ends."""

    def __init__(self, home: Home, every_s: float) -> None:
        self.samples: list[Sample] = []
        self._home, self._every_s = home, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        begun_mono = time.monotonic()
        while not self._over.wait(self._every_s):
            self.samples.append({AT: time.monotonic() - begun_mono} | sample(self._home))


def sample(home: Home) -> Sample:
    """Now, of all processes of a role together."""
    now: Sample = defaultdict(float)
    for process in processes(home):
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(process.pid)
            now[f"{process.role} MiB"] += found.memory_full_info().pss / MIB
            now[f"{process.role} descriptors"] += found.num_fds()
    sizes_bytes = dict(_files(home.root))
    journal = home.ledger / "journal"
    now["journal MiB"] = sum(size for path, size in sizes_bytes.items() if path.is_relative_to(journal)) / MIB
    now["ledger MiB"] = sum(size for path, size in sizes_bytes.items() if path.parent == home.ledger) / MIB
    rays = sum(path.relative_to(home.root).parts[0] == "ray" for path in sizes_bytes)
    now |= {"files": len(sizes_bytes) - rays, RAYS_FILES: rays}
    return dict(now)


def slopes_an_hour(samples: list[Sample], warm_up: float) -> dict[str, float]:
    """Of each figure, by least squares over the samples after the first ``warm_up`` (a share) of the time.

    What fewer than two of them have is left out.
    """
    since_s = warm_up * samples[-1][AT] if samples else 0.0
    told = [sample for sample in samples if sample[AT] >= since_s]
    slopes = {}
    for name in sorted({name for sample in told for name in sample} - {AT}):
        points = [(sample[AT], sample[name]) for sample in told if name in sample]
        if len(points) > 1:
            slopes[name] = HOUR_S * statistics.linear_regression(*zip(*points, strict=True)).slope
    return slopes


def _files(root: Path) -> Iterator[tuple[Path, int]]:
    """With their bytes; one that goes away meanwhile is none."""
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat().st_size
