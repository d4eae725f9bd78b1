"""A disk that fills up or fails, a clock that jumps: a small library preloaded into a raybatch under test.

Compiled on the spot. What is played can be changed while the processes run. Linux only.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from raybatch.errors import OperatorError

SOURCE: Final = Path(__file__).with_suffix(".c")
COMPILERS: Final = ("cc", "gcc", "clang")
COMPILING_MAX_S: Final = 60.0
PIDS_MAX: Final = 16
_CONTROLS: Final = struct.Struct(f"={5 + PIDS_MAX}q")  #: as in the source
_REFUSED: Final = slice(16, 24)


class Shim:
    """Preloaded into what is started while ``preloaded`` is open. ``directory`` is outside ``root``."""

    def __init__(self, directory: Path, root: Path) -> None:
        """``root``: files under it are written to the disk that is played. Raises OperatorError."""
        self._library = directory / "fault_shim.so"
        self._path = directory / "fault_shim.controls"
        self._root = root
        _compile(self._library)
        self._path.write_bytes(bytes(_CONTROLS.size))
        with self._path.open("r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), _CONTROLS.size)

    @contextmanager
    def preloaded(self) -> Iterator[None]:
        """For processes started within the block, and all that they start."""
        variables = {
            "LD_PRELOAD": str(self._library),
            "RAYBATCH_SHIM": str(self._path),
            "RAYBATCH_SHIM_ROOT": str(self._root),
        }
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def fail_disk(self, *, write_errno: int = 0, sync_errno: int = 0) -> None:
        """From now on; without arguments the disk is well."""
        self._put(0, write_errno, sync_errno)

    def move_clock(self, pids: Iterable[int], *, offset_s: float = 0.0, frozen_at: float = 0.0) -> None:
        """The wall clock of these processes: set off, or standing still at an instant."""
        listed = [*pids][:PIDS_MAX]
        self._put(24, round(offset_s * 1e9), round(frozen_at * 1e9), *listed, *[0] * (PIDS_MAX - len(listed)))

    @property
    def refused(self) -> int:
        """Writes and fsyncs that failed so far."""
        count: int = struct.unpack("=q", self._mapped[_REFUSED])[0]
        return count

    def _put(self, offset: int, *numbers: int) -> None:
        packed = struct.pack(f"={len(numbers)}q", *numbers)
        self._mapped[offset : offset + len(packed)] = packed


def _compile(library: Path) -> None:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise OperatorError(f"disks and clocks need a C compiler to play: one of {', '.join(COMPILERS)}")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILING_MAX_S, check=False)
    if done.returncode != 0:
        raise OperatorError(f"{SOURCE.name} does not compile: {done.stderr[:500]}")
