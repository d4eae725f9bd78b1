"""Labelled places at which a process can be told to die, to show that dying there costs nothing.

With ``RAYBATCH_CRASH_POINTS=<directory>`` in the environment, a file ``<label>`` in that directory, holding a
number n, kills with SIGKILL whichever process passes the label for the n-th time since. The file becomes
``<label>.fired`` first, so that each fires once, whatever starts again; several files are several deaths.
Without the variable a passing costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Final

VARIABLE: Final = "RAYBATCH_CRASH_POINTS"

_directory = os.environ.get(VARIABLE)
_passed: Counter[str] = Counter()


def crash_point(label: str) -> None:
    """``label``: a literal, ``<what>.<what has just happened to it>``."""
    if _directory is not None:
        _pass(Path(_directory) / label)


def arm(directory: Path, label: str, passing: int = 1) -> None:
    """The next process with this directory that passes the label ``passing`` times dies there."""
    (directory / f"{label}.new").write_text(str(passing))
    (directory / f"{label}.new").rename(directory / label)


def fired(directory: Path, label: str) -> bool:
    return (directory / f"{label}.fired").exists()


def _pass(armed: Path) -> None:
    try:
        passing = int(armed.read_text())
        _passed[armed.name] += 1
        if _passed[armed.name] < passing:
            return
        armed.rename(armed.with_name(f"{armed.name}.fired"))
    except FileNotFoundError:  # not armed, or another process was faster
        _passed.pop(armed.name, None)
        return
    os.kill(os.getpid(), signal.SIGKILL)
