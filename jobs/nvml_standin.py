"""A GPU without a GPU: a stand-in for NVML, compiled on the spot, that plays what a scene says.

Processes started with ``environment()`` load it as their driver's libnvidia-ml.so.1, through the real
bindings. Write another scene while they run, and the card overheats, fills up, breaks. Linux only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raybatch.errors import OperatorError

SOURCE: Final = Path(__file__).with_suffix(".c")
SONAME: Final = "libnvidia-ml.so.1"
SCENE_VARIABLE: Final = "RAYBATCH_NVML_SCENE"
COMPILERS: Final = ("cc", "gcc", "clang")
COMPILING_MAX_S: Final = 60.0


@dataclass(frozen=True)
class Held:
    """GPU memory of one process."""

    pid: int
    size_bytes: int | None  #: None: the driver hides it
    draws: bool = False  #: listed among the graphics processes, not the computing ones


@dataclass(frozen=True)
class Card:
    """A GPU, or with ``parent`` a MIG slice of one: then memory and processes are all it answers about."""

    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    name: str = "NVIDIA GeForce RTX 4080"
    parent: int | None = None  #: position of the card it is a slice of
    memory_total_bytes: int = 16 << 30
    memory_used_bytes: int = 0
    temperature_c: int = 60
    power_mw: int = 200_000
    power_limit_mw: int = 320_000
    utilization_percent: int = 90
    throttle_mask: int = 0  #: NVML's nvmlClocksEventReason bits
    ecc_uncorrected: int = 0
    processes: tuple[Held, ...] = ()
    xids: tuple[int, ...] = ()  #: all so far; a watcher is told those that join while it watches
    unsupported: tuple[str, ...] = ()  #: figures above that the card does not know
    status: int = 0  #: NVML's error code for every query about this card


@dataclass(frozen=True)
class Scene:
    cards: tuple[Card, ...] = (Card(),)
    init: int = 0  #: NVML's error code for opening it


FIGURES: Final = (
    "memory_total_bytes",
    "memory_used_bytes",
    "temperature_c",
    "power_mw",
    "power_limit_mw",
    "utilization_percent",
    "throttle_mask",
    "ecc_uncorrected",
    "status",
)


def compile_standin(directory: Path) -> Path:
    """The library, in ``directory``. Raises OperatorError without a C compiler, or when it finds an error."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise OperatorError(
            f"no C compiler on PATH ({', '.join(COMPILERS)}) to build the NVML stand-in: install gcc or clang"
        )
    library = directory / SONAME
    options = ["-std=c11", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", f"-Wl,-soname,{SONAME}"]
    command = [compiler, *options, "-o", str(library), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMPILING_MAX_S)
    if done.returncode:
        raise OperatorError(f"{compiler} cannot build {SOURCE}: {done.stderr}")
    return library


def environment(library: Path, scene_path: Path) -> dict[str, str]:
    """What a process needs in its environment from its start on; its children inherit it."""
    paths = [str(library.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {"LD_LIBRARY_PATH": os.pathsep.join(paths), SCENE_VARIABLE: str(scene_path)}


def write_scene(path: Path, scene: Scene) -> None:
    """At once: a reader finds the scene before or this one, never half of it."""
    lines = [f"init {scene.init}"]
    for card in scene.cards:
        lines += [f"gpu {card.uuid}", f"name {card.name}"]
        lines += [f"parent {card.parent}"] if card.parent is not None else []
        lines += [f"{figure} {getattr(card, figure)}" for figure in FIGURES]
        lines += [_held_line(held) for held in card.processes]
        lines += [f"xid {xid}" for xid in card.xids]
        lines += [f"unsupported {figure}" for figure in card.unsupported]
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(path)


def _held_line(held: Held) -> str:
    size_bytes = -1 if held.size_bytes is None else held.size_bytes
    return f"{'graphics' if held.draws else 'compute'} {held.pid} {size_bytes}"
