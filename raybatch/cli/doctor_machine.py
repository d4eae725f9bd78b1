"""What `raybatch doctor` says of the machine: each check looks at one thing and answers with findings.

It changes nothing, starts nothing and asks no network.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from raybatch.cli.show import instant, size
from raybatch.config import Home, Settings
from raybatch.core.fitness import FIT, Fitness, judge

GIB: Final = 1 << 30
MEMORY_LOW_BYTES: Final = 4 * GIB  #: Ray, Serve and scheduler take more than 1 GiB, vLLM some more
DISK_LOW_BYTES: Final = 10 * GIB
OPEN_FILES_MIN: Final = 8192  #: what Ray asks for
CLOCK_LEAST_AT: Final = 1_767_225_600.0  #: 2026 began: raybatch is not older
CLOCK_APART_MAX_S: Final = 300.0
NETWORK_FILE_SYSTEMS: Final = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "glusterfs", "gpfs", "lustre"),
    *("ncpfs", "nfs", "smb", "virtiofs"),
)
NVIDIA_VENDOR: Final = "0x10de"


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    check: str
    verdict: Verdict
    found: str
    helps: str = ""  #: what mends it


def ok(check: str, found: str) -> Finding:
    return Finding(check, Verdict.OK, found)


def warning(check: str, found: str, helps: str) -> Finding:
    return Finding(check, Verdict.WARNING, found, helps)


def problem(check: str, found: str, helps: str) -> Finding:
    return Finding(check, Verdict.PROBLEM, found, helps)


def python() -> Finding:
    found = f"{sys.version.split()[0]} at {sys.prefix}"
    if " " in sys.prefix:
        return problem("python", found, "Ray cannot start from a path with a space in it: install elsewhere")
    return ok("python", found)


def memory(cgroup_limit: Path = Path("/sys/fs/cgroup/memory.max")) -> Finding:
    import psutil

    machine = psutil.virtual_memory()
    limit = cgroup_limit.read_text().strip() if cgroup_limit.exists() else "max"
    total_bytes = min(machine.total, int(limit)) if limit.isdigit() else machine.total
    available_bytes = min(machine.available, total_bytes)
    found = f"{size(available_bytes)} of {size(total_bytes)} available"
    if available_bytes < MEMORY_LOW_BYTES:
        return warning("memory", found, "end other programs, or take a smaller model: it may not fit")
    return ok("memory", found)


def disk(home: Home, settings: Settings) -> Finding:
    there = existing(home.root)
    free_bytes = shutil.disk_usage(there).free
    found = f"{size(free_bytes)} free at {home.root}"
    least_bytes = settings.scheduler.disk_free_bytes_min
    if not os.access(there, os.W_OK | os.X_OK):
        return problem("disk", f"{there} cannot be written", "give another folder with --home")
    if free_bytes < least_bytes:
        return problem(
            "disk", found, f"free some space: with less than {size(least_bytes)} no new batch is taken in"
        )
    if free_bytes < DISK_LOW_BYTES:
        return warning("disk", found, "uploads and results need room: free some, or give a larger --home")
    return ok("disk", found)


def file_system(home: Home, mounts: Path = Path("/proc/self/mounts")) -> Finding:
    mounted_at, kind = mount_of(existing(home.root), mounts)
    found = f"{kind} at {mounted_at}"
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        return warning(
            "file system",
            found,
            "raybatch trusts fsync and file locks, which network file systems may not keep:"
            " give a local --home",
        )
    if kind in ("tmpfs", "ramfs"):
        return warning(
            "file system", found, "what lies in memory is gone after a restart: give another --home"
        )
    if kind == "overlay":
        return warning(
            "file system", found, "it goes with its container: mount a volume there, or give another --home"
        )
    return ok("file system", found)


def mount_of(path: Path, mounts: Path) -> tuple[Path, str]:
    """Where the file system that holds ``path`` is mounted, and its kind."""
    found = (Path("/"), "unknown")
    for line in mounts.read_text().splitlines():
        place, kind = line.split()[1:3]
        mounted_at = Path(place.encode().decode("unicode_escape"))
        if path.is_relative_to(mounted_at) and len(mounted_at.parts) >= len(found[0].parts):
            found = (mounted_at, kind)
    return found


def shared_memory(settings: Settings, path: Path = Path("/dev/shm")) -> Finding:
    """Ray keeps its object store there, vLLM what its processes say to each other."""
    total_bytes = shutil.disk_usage(path).total if path.is_dir() else 0
    found = f"{size(total_bytes)} at {path}"
    if total_bytes < 2 * settings.ray.object_store_bytes:
        return warning("shared memory", found, "give a container more: docker run --shm-size=1g")
    return ok("shared memory", found)


def temp_folder(home: Home) -> Finding:
    """Where Ray puts its sockets, whose paths must be short."""
    from raybatch.actors.supervisor import RAY_TEMP_DIR_MAX

    own = home.root / "ray"
    path = own if len(str(own)) <= RAY_TEMP_DIR_MAX else Path(tempfile.gettempdir()) / "rb-12345678"
    if len(str(path)) > RAY_TEMP_DIR_MAX:
        return problem(
            "Ray's sockets",
            f"{path} has {len(str(path))} characters, at most {RAY_TEMP_DIR_MAX} can be",
            "give a --home with a shorter path, or set TMPDIR to one",
        )
    return ok("Ray's sockets", f"at {path.parent if path != own else path}")


def open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft}, may be raised to {'any number' if hard == resource.RLIM_INFINITY else hard}"
    if hard not in (resource.RLIM_INFINITY, -1) and hard < OPEN_FILES_MIN:
        return warning("open files", found, f"allow {OPEN_FILES_MIN}: ulimit -Hn, or LimitNOFILE= of a unit")
    return ok("open files", found)


def clock(reference_at: float | None) -> Finding:
    """``reference_at``: what another machine's clock has just said."""
    now = time.time()
    if now < CLOCK_LEAST_AT:
        return problem("clock", instant(now), "set the clock: batches would expire and sort wrongly")
    if reference_at is not None and abs(now - reference_at) > CLOCK_APART_MAX_S:
        return warning(
            "clock",
            f"{instant(now)}, the hub says {instant(reference_at)}",
            "let it be set by NTP: timedatectl set-ntp true",
        )
    return ok("clock", instant(now))


def gpus(home: Home, settings: Settings) -> list[Finding]:
    from raybatch.actors.cluster_facts import processes
    from raybatch.gpu.nvml import GpuWatch

    watch = GpuWatch.open(lambda: [process.pid for process in processes(home)])
    if watch.absent is not None:
        return [no_gpu(settings, watch.absent)]
    readings = watch.read()
    watch.close()
    findings = []
    for reading in readings:
        found = (
            f"{reading.name}, {size(reading.memory_total_bytes)}, {size(reading.memory_others_bytes)} of it"
            f" held by others, {reading.temperature_c} °C, driver {driver_version()}"
        )
        verdict = judge(FIT, (reading,), settings.gpu)
        helps = "; ".join(verdict.reasons)
        kind = {Fitness.FIT: Verdict.OK, Fitness.STRAINED: Verdict.WARNING, Fitness.UNFIT: Verdict.PROBLEM}
        findings.append(Finding(f"GPU {reading.index}", kind[verdict.fitness], found, helps))
    return findings


def no_gpu(
    settings: Settings, why: str, proc: Path = Path("/proc"), devices: Path = Path("/sys/bus/pci/devices")
) -> Finding:
    wanted = settings.engine.kind == "vllm" and settings.engine.gpus > 0
    if (proc / "driver/nvidia/version").exists():
        helps = "the driver is loaded: a container must be given it, as `docker run --gpus all` does"
    elif any(_is_nvidia_card(device) for device in devices.glob("*")):
        helps = "there is an NVIDIA card: install NVIDIA's driver, then `nvidia-smi` lists it"
    elif wanted:
        helps = "take --profile cpu, or --set engine.gpus=0"
    else:
        return ok("GPU", f"none, engines run on the CPU ({why})")
    return problem("GPU", why, helps) if wanted else warning("GPU", why, helps)


def _is_nvidia_card(device: Path) -> bool:
    try:
        vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
    except OSError:
        return False
    return vendor == NVIDIA_VENDOR and kind.startswith("0x03")


def driver_version(proc: Path = Path("/proc")) -> str:
    """As the kernel module says it; under WSL there is none."""
    try:
        words = (proc / "driver/nvidia/version").read_text().split()
    except OSError:
        return "of unknown version"
    return next((word for word in words if word[0].isdigit() and "." in word), "of unknown version")


def existing(path: Path) -> Path:
    """``path`` or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
