"""A process of its own that watches its GPUs: ``python -m tests.gpu.reader``, a line in, a line of JSON out.

Its own because the loader reads LD_LIBRARY_PATH when a process starts, and keeps the library it found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from raybatch.core.fitness import GpuReading
from raybatch.gpu.nvml import GpuWatch

ROOT = Path(__file__).resolve().parents[2]
SHADOWED = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")


class Reader:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self.absent: str | None = None
        self._process = process

    def read(self) -> tuple[GpuReading, ...]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("read\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the reader died with {self._process.wait()}"
        said = json.loads(line)
        self.absent = said["absent"]
        return tuple(
            GpuReading(**(seen | {"throttle_reasons": tuple(seen["throttle_reasons"])}))
            for seen in said["readings"]
        )


@contextmanager
def reader(environment: Mapping[str, str]) -> Iterator[Reader]:
    inherited = {name: value for name, value in os.environ.items() if name not in SHADOWED}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.reader"],
        cwd=ROOT,
        env=inherited | dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Reader(process)
        finally:
            process.kill()


def _main() -> None:
    watch = GpuWatch.open(lambda: {os.getpid()})
    for _ in sys.stdin:
        said = {"readings": [asdict(seen) for seen in watch.read()], "absent": watch.absent}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    _main()
