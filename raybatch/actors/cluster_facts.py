"""What is known about a home's cluster from outside: what it wrote down, and which processes are its own.

Every process a cluster starts inherits ``RAYBATCH_CLUSTER``, a random id kept in the home. That, and nothing
else, says whose a process is: another home's, or another Ray's, is never touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Final

import msgspec
import psutil

from raybatch.config import Home

CLUSTER_VARIABLE: Final = "RAYBATCH_CLUSTER"
END_S: Final = 2.0  #: processes asked to end get so long before they are killed


@dataclass(frozen=True)
class ClusterFacts:
    home: str
    cluster_id: str
    phase: str  #: starting, ready, stopping or failed
    message: str
    supervisor_pid: int
    api_url: str
    dashboard_url: str | None
    ray_address: str
    ray_temp_dir: str
    started_at: float


@dataclass(frozen=True)
class ProcessFacts:
    pid: int
    role: str  #: supervisor, ray, dashboard, replica, scheduler, engine, engine-child, chore or other
    rss_bytes: int
    started_at: float
    command: str


def cluster_id(home: Home) -> str:
    """Drawn once per home."""
    path = home.run / "cluster_id"
    if not path.exists():
        path.write_text(secrets.token_hex(8))
    return path.read_text().strip()


def write_facts(home: Home, facts: ClusterFacts) -> None:
    temporary = home.run / "cluster.json.new"
    temporary.write_bytes(msgspec.json.encode(asdict(facts)))
    temporary.replace(home.run / "cluster.json")


def read_facts(home: Home) -> ClusterFacts | None:
    """As last written, whether or not it still runs."""
    try:
        return msgspec.json.decode((home.run / "cluster.json").read_bytes(), type=ClusterFacts)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def running(home: Home) -> ClusterFacts | None:
    """None unless a supervisor holds the home's lock."""
    facts = read_facts(home)
    if facts is None:
        return None
    with try_lock(home, shared=True) as lock:
        return facts if lock is None else None


@contextlib.contextmanager
def try_lock(home: Home, *, shared: bool = False) -> Iterator[IO[str] | None]:
    """The supervisor's lock, or None when another process has it. The kernel frees it when that dies."""
    home.run.mkdir(parents=True, exist_ok=True)
    with (home.run / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield lock


def processes(home: Home) -> list[ProcessFacts]:
    """Every live process of this home's cluster, oldest first."""
    found = []
    supervisor = _supervisor(home)
    for process in (*supervisor, *_own(home)):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline()) or process.name()
            found.append(
                ProcessFacts(
                    pid=process.pid,
                    role="supervisor" if process in supervisor else _role(command, process),
                    rss_bytes=process.memory_info().rss,
                    started_at=process.create_time(),
                    command=command[:200],
                )
            )
    return sorted(found, key=lambda facts: facts.started_at)


def reap(home: Home) -> int:
    """End every process of this home's cluster but our own line; answers how many there were.

    After a crash this frees what orphans still hold: GPU memory, ports, the ledger.
    """
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    mine = [process for process in _own(home) if process.pid not in spared]
    for process in mine:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(mine, timeout=END_S if mine else 0)
    while alive:
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        _, alive = psutil.wait_procs(alive, timeout=END_S)
        alive = [process for process in alive if not _is_zombie(process)]
    return len(mine)


@lru_cache(maxsize=1)
def this_machine() -> str:
    """Another one after every boot, as pids are."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def kill_engine(home: Home, pid: int) -> bool:
    """SIGKILL the process if it is an engine of this home, on this machine."""
    mine = [process for process in _own(home) if process.pid == pid]
    for process in mine:
        with contextlib.suppress(psutil.Error):
            if _role(" ".join(process.cmdline()), process) == "engine":
                process.kill()
                return True
    return False


def kill_at_once(home: Home) -> int:
    """SIGKILL everything of this home's cluster, its supervisor first, as a power cut would."""
    mine = [*_supervisor(home), *_own(home)]
    for process in mine:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(mine, timeout=END_S)
    return len(mine)


def _supervisor(home: Home) -> list[psutil.Process]:
    facts = running(home)
    with contextlib.suppress(psutil.Error):
        return [psutil.Process(facts.supervisor_pid)] if facts is not None else []
    return []


def _is_zombie(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def _own(home: Home) -> list[psutil.Process]:
    path = home.run / "cluster_id"
    if not path.exists():
        return []
    marker = path.read_text().strip()
    own = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(CLUSTER_VARIABLE) == marker and not _is_zombie(process):
                own.append(process)
    return own


def _role(command: str, process: psutil.Process) -> str:
    for word, role in (
        ("serve_app.bootstrap", "other"),
        ("ray::SchedulerActor", "scheduler"),
        ("ray::EngineActor", "engine"),
        ("ray::ServeReplica", "replica"),
        ("ray::ChoreActor", "chore"),
        ("echo_child", "engine-child"),
        ("VLLM::", "engine-child"),
        ("raylet/raylet ", "ray"),  # before its arguments, which name the dashboard's agent
        ("ray/dashboard", "dashboard"),
        ("ray::DashboardAgent", "dashboard"),
    ):
        if word in command:
            return role
    with contextlib.suppress(psutil.Error):
        if any("ray::EngineActor" in " ".join(parent.cmdline()) for parent in process.parents()):
            return "engine-child"
    return "ray" if "ray" in command else "other"


def wait_gone(pid: int, timeout_s: float) -> bool:
    """Ended, even where whoever started it (this process, say) has not asked how."""
    deadline_mono = time.monotonic() + timeout_s
    while _alive(pid):
        if time.monotonic() > deadline_mono:
            return False
        time.sleep(0.1)
    return True


def _alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return not _is_zombie(psutil.Process(pid))
    return False
