"""Start, look at and stop a home's cluster: what `raybatch up`, `status` and `down` stand on."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Final

from raybatch.actors.cluster_facts import (
    ClusterFacts,
    ProcessFacts,
    processes,
    read_facts,
    reap,
    running,
    wait_gone,
)
from raybatch.actors.connection import Connection
from raybatch.actors.ports import check_free
from raybatch.actors.supervisor import Supervisor, api_alive
from raybatch.config import Home, Settings
from raybatch.errors import OperatorError, RaybatchError

__all__ = ["ClusterFacts", "ProcessFacts", "down", "processes", "running", "up", "up_foreground"]

START_MAX_S: Final = 180.0
STOP_MAX_S: Final = 60.0
Say = Callable[[str], None]

_started: Final[list[subprocess.Popen[bytes]]] = []  #: supervisors that this process must see end


def up(home: Home, settings: Settings, say: Say) -> ClusterFacts:
    """Start a supervisor in the background; return once the API answers. The models may still be loading.

    Raises OperatorError when this home runs already, the port is taken, or the cluster does not come up.
    """
    prepare(home, settings)
    with (home.logs / "supervisor.log").open("ab") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "raybatch.actors.supervisor", str(home.root)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    _started.append(supervisor)
    try:
        return _wait_ready(home, supervisor, say)
    except BaseException:
        supervisor.terminate()
        with suppress(subprocess.TimeoutExpired):
            supervisor.wait(timeout=STOP_MAX_S)
        raise


def up_foreground(home: Home, settings: Settings) -> None:
    """Supervise in this process until SIGINT or SIGTERM."""
    prepare(home, settings)
    Supervisor(home, settings).run()


def down(home: Home, now: bool, say: Say) -> bool:
    """Stop this home's cluster and nothing else. Unless ``now``, engines first commit what is finished.

    Answers False when nothing ran; orphans of a crashed run are ended all the same.
    """
    facts = running(home)
    if facts is None:
        orphans = reap(home)
        if orphans:
            say(f"ended {orphans} processes that a crashed run left behind")
        _forget_ended()
        return orphans > 0
    if not now and api_alive(facts.api_url):
        say("draining: engines commit what they have finished")
        _drain(home, facts)
    say("stopping")
    with suppress(ProcessLookupError):
        os.kill(facts.supervisor_pid, signal.SIGTERM)
    if not wait_gone(facts.supervisor_pid, STOP_MAX_S):
        with suppress(ProcessLookupError):
            os.kill(facts.supervisor_pid, signal.SIGKILL)
    reap(home)
    _forget_ended()
    return True


def _forget_ended() -> None:
    _started[:] = [supervisor for supervisor in _started if supervisor.poll() is None]


def prepare(home: Home, settings: Settings) -> None:
    """Directories, secrets and settings, in place before anything starts."""
    if running(home) is not None:
        raise OperatorError(
            f"{home.root} is running already: see `raybatch status`, or `raybatch down` first"
        )
    if " " in sys.prefix:
        raise OperatorError(
            f"Ray cannot be started from a folder with a space in its path, such as {sys.prefix}: "
            "move the checkout, or install raybatch into a virtual environment elsewhere"
        )
    home.make()
    reap(home)
    check_free(settings.api.host, settings.api.port)
    for name in ("ray_token", "admin_token"):
        path = home.run / name
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32))
    home.save(settings)


def _wait_ready(home: Home, supervisor: subprocess.Popen[bytes], say: Say) -> ClusterFacts:
    deadline_mono = time.monotonic() + START_MAX_S
    said = ""
    while time.monotonic() < deadline_mono:
        facts = read_facts(home)
        mine = facts is not None and facts.supervisor_pid == supervisor.pid
        if facts is not None and mine and facts.message != said:
            said = facts.message
            say(said)
        if facts is not None and mine and facts.phase == "ready":
            return facts
        if supervisor.poll() is not None or (facts is not None and mine and facts.phase == "failed"):
            raise OperatorError(f"raybatch did not start: {said or 'see the log'}. Logs: {home.logs}")
        time.sleep(0.1)
    raise OperatorError(f"the API did not answer within {START_MAX_S:.0f} s. Logs: {home.logs}")


def _drain(home: Home, facts: ClusterFacts) -> None:
    deadline_mono = time.monotonic() + home.load().engine.drain_s + 10.0
    with closing(Connection(home, facts.api_url, None)) as connection, suppress(RaybatchError):
        connection.admin("POST", "/admin/drain", {"on": True})
        while time.monotonic() < deadline_mono:
            engines = connection.admin("GET", "/admin/overview")["overview"]["engines"]
            if all(engine["held_rows"] == 0 or engine["lost"] for engine in engines):
                return
            time.sleep(0.2)
