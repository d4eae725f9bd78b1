"""F1, F2, F3, F5, F7, F9, F16, F18: processes that die, hang, sleep too long, or are there twice."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

import httpx
import psutil

from jobs.echo_cluster import EchoCluster, until
from jobs.fault_case import (
    ENGINES,
    MENDED_MAX_S,
    ROWS_PER_S,
    Outcome,
    Story,
    begun,
    engines_back_s,
    kill,
    log_entries,
    overview,
    rows_back_s,
    window_rows,
)
from jobs.trial import Trial, committed
from raybatch.errors import InUse

ASLEEP_S: Final = 3.0  #: beyond the lease
UNREPORTED_S: Final = (
    1.0  #: how long a finished row may take, at most, from the engine into a part that is heard of
)
SECOND_SCHEDULER_S: Final = 60.0
SECOND_SCHEDULER: Final = """
import sys
from pathlib import Path
from raybatch.errors import InUse
from raybatch.ledger.durable import DurableMemory
try:
    DurableMemory(Path(sys.argv[1]))
except InUse as refusal:
    print(type(refusal).__name__, refusal.message)
"""


def engine_child(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    """What it had running runs again, and nothing else: what it had finished is its actor's by then."""
    yield _engine_killed(cluster, rows, "F1", "engine-child", window_rows(cluster))


def engine_actor(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    """What it had finished and not yet handed in runs again too."""
    yield _engine_killed(cluster, rows, "F2", "engine", _held_rows(cluster))


def scheduler(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    """Meanwhile the API answers 503, or what was true: counts never fall and nothing else is said."""
    story = Story(cluster, "F3", "kill -9 the scheduler")
    trial = begun(cluster, rows)
    before = committed(trial.wait_committed(0))
    killed_mono = time.monotonic()
    pid = kill(cluster, "scheduler")
    statuses: set[int] = set()
    seen = before

    def another() -> bool:
        nonlocal seen
        answer = httpx.get(f"{cluster.url}/v1/batches/{trial.batch_id}", timeout=30.0)
        statuses.add(answer.status_code)
        if answer.status_code != 200:
            return False
        now = committed(answer.json())
        story.expect(now >= seen, f"{now} rows are committed after {seen} were")
        seen = max(seen, now)
        return pid not in cluster.pids("scheduler") and seen > before

    until(another, MENDED_MAX_S, "the scheduler is not back")
    recovery_s = time.monotonic() - killed_mono
    story.expect(statuses <= {200, 503}, f"the API answered {sorted(statuses)}")
    yield story.outcome(trial, recovery_s, redone_max=0)


def everything(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    story = Story(cluster, "F5", "kill -9 everything, then `raybatch up`")
    trial = begun(cluster, rows)
    before = committed(trial.wait_committed(0))
    orphans = [*cluster.pids("engine"), *cluster.pids("engine-child")]
    cluster.kill_everything()
    killed_mono = time.monotonic()
    cluster.up(engines=0)
    recovery_s = rows_back_s(trial, killed_mono, before)
    left = [pid for pid in orphans if psutil.pid_exists(pid) and _is_engine(pid)]
    story.expect(not left, f"engine processes outlived it: {left}")
    yield story.outcome(trial, recovery_s, redone_max=ENGINES * _held_rows(cluster))


def zombie(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    """An engine sleeps past its lease and wakes: its rows ran elsewhere, and what it finished is refused."""
    story = Story(cluster, "F7", "SIGSTOP an engine past its lease, then SIGCONT")
    trial = begun(cluster, rows, share=0.1)
    sleeper = kill(cluster, "engine", signal.SIGSTOP)
    stopped_mono = time.monotonic()
    engine_id = next(e["engine_id"] for e in overview(cluster)["engines"] if e["pid"] == sleeper)
    try:
        lease_s = cluster.settings.scheduler.lease_s + ASLEEP_S
        until(lambda: _released(cluster, trial, engine_id), lease_s + 30, "its leases do not end")
    finally:
        os.kill(sleeper, signal.SIGCONT)
    recovery_s = time.monotonic() - stopped_mono
    yield story.outcome(trial, recovery_s, again=(1, rows))


def hang(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    """The engine's child stands still; its actor goes on reporting that all is well."""
    story = Story(cluster, "F9", "SIGSTOP the engine's child while its actor still answers")
    trial = begun(cluster, rows)
    died = len(log_entries(cluster, "died"))
    stopped_mono = time.monotonic()
    pid = kill(cluster, "engine-child", signal.SIGSTOP)
    recovery_s = engines_back_s(cluster, stopped_mono, pid)
    told = [entry["message"] for entry in log_entries(cluster, "died")[died:]]
    story.expect(any("it hangs" in message for message in told), f"the log does not tell a hang: {told}")
    yield story.outcome(trial, recovery_s)


def head(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    story = Story(cluster, "F16", "kill -9 Ray's head: its control service")
    trial = begun(cluster, rows)
    before = committed(trial.wait_committed(0))
    (control,) = [pid for pid in cluster.pids("ray") if "gcs_server" in _command(pid)]
    os.kill(control, signal.SIGKILL)
    recovery_s = rows_back_s(trial, time.monotonic(), before)
    yield story.outcome(trial, recovery_s, redone_max=ENGINES * _held_rows(cluster))


def two_schedulers(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    """A second one opens the same ledger while the first serves."""
    story = Story(cluster, "F18", "a second scheduler opens the ledger")
    trial = begun(cluster, rows)
    second = subprocess.run(
        [sys.executable, "-c", SECOND_SCHEDULER, str(cluster.home.ledger)],
        capture_output=True,
        text=True,
        timeout=SECOND_SCHEDULER_S,
        check=False,
    )
    said = second.stdout.strip() or second.stderr[-300:]
    story.expect(said.startswith(InUse.__name__), f"the second one was not refused: {said}")
    yield story.outcome(trial)


def _engine_killed(cluster: EchoCluster, rows: int, fault: str, role: str, redone_max: int) -> Outcome:
    story = Story(cluster, fault, f"kill -9 an {role.replace('-', ' ')} process")
    trial = begun(cluster, rows)
    before = len(log_entries(cluster, "suspected"))
    killed_mono = time.monotonic()
    pid = kill(cluster, role)
    recovery_s = engines_back_s(cluster, killed_mono, pid)
    blamed = log_entries(cluster, "suspected")[before:]
    story.expect(not blamed, f"rows are blamed: {blamed}")
    return story.outcome(trial, recovery_s, redone_max=redone_max)


def _held_rows(cluster: EchoCluster) -> int:
    """What is lost with an engine actor at most: a window of rows that run, and rows not handed in yet."""
    return window_rows(cluster) + math.ceil(UNREPORTED_S * ROWS_PER_S)


def _released(cluster: EchoCluster, trial: Trial, engine_id: str) -> bool:
    return any(
        entry["batch_id"] == trial.batch_id and entry["engine_id"] == engine_id
        for entry in log_entries(cluster, "released")
    )


def _is_engine(pid: int) -> bool:
    command = _command(pid)
    return "EngineActor" in command or "echo_child" in command


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""
