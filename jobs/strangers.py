"""Try to join a running raybatch's Ray as somebody who has no token, or another one.

Each attempt is a process of its own, with nothing of this one's credentials.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import psutil

from raybatch.actors.cluster_facts import processes, running
from raybatch.actors.supervisor import head_environment
from raybatch.config import Home
from raybatch.errors import OperatorError

ATTEMPT_MAX_S: Final = 120.0
ATTEMPTS_AT_ONCE: Final = 4

#: an attempt takes an address, and fails when it is refused
SCRIPTS: Final = {
    "driver": "ray.init(address, log_to_driver=False); ray.nodes()",
    "Ray Client": "ray.init(address); ray.nodes()",
    "job": "JobSubmissionClient(address).submit_job(entrypoint='true')",
}
_PREAMBLE: Final = (
    "import sys, ray; from ray.job_submission import JobSubmissionClient; address = sys.argv[1]; "
)
STRANGERS: Final[dict[str, dict[str, str]]] = {
    "no token": {"RAY_AUTH_MODE": "disabled"},
    "another token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
}


@dataclass(frozen=True)
class Attempt:
    what: str  #: driver, Ray Client or job
    who: str  #: with which token
    succeeded: bool
    last_words: str  #: of the process


def attempts_of_strangers(home: Home) -> list[Attempt]:
    """Every way in, by everybody who must not come in. Ray takes half a minute to give up."""
    tries = [(home, what, who, STRANGERS[who]) for who in STRANGERS for what in ways_in(home)]
    with ThreadPoolExecutor(ATTEMPTS_AT_ONCE) as pool:
        return list(pool.map(lambda tried: attempt(*tried), tries))


def ways_in(home: Home) -> dict[str, str]:
    """Addresses by what they are for; no job API without the dashboard. Raises OperatorError when stopped."""
    facts = running(home)
    if facts is None:
        raise OperatorError(f"no raybatch runs at {home.root}: start one with `raybatch up`")
    ways = {"driver": facts.ray_address, "Ray Client": f"ray://127.0.0.1:{_client_port(home)}"}
    return ways | ({"job": facts.dashboard_url} if facts.dashboard_url else {})


def _client_port(home: Home) -> int:
    for process in processes(home):
        if "ray.util.client.server" in process.command:
            words = dict(word.split("=", 1) for word in psutil.Process(process.pid).cmdline() if "=" in word)
            return int(words["--port"])
    raise OperatorError(f"no Ray Client server runs at {home.root}")


def attempt(home: Home, what: str, who: str, credentials: Mapping[str, str]) -> Attempt:
    """One way in, with exactly these credentials."""
    inherited = head_environment(home, "")
    environment = {name: value for name, value in inherited.items() if not name.startswith("RAY_AUTH_")}
    ended = subprocess.run(
        [sys.executable, "-c", _PREAMBLE + SCRIPTS[what], ways_in(home)[what]],
        env=environment | {"HOME": str(home.scratch), **credentials},  # Ray looks for a token in HOME, too
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ATTEMPT_MAX_S,
        check=False,
    )
    words = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
    return Attempt(what, who, ended.returncode == 0, words[-1][:200] if words else "")
