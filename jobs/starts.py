"""How long until there is an answer: after a start, a killed engine, a kill of everything.

On a real engine. Each row answers one token, so its end is its first token.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import httpx
import psutil

from jobs.arms import uploaded
from jobs.own_cluster import OwnCluster, until
from jobs.parity import ENGINE_READY_MAX_S, loading
from jobs.prompts import prompts
from jobs.runs import Ratio
from raybatch.config import Settings
from raybatch.errors import RaybatchError

COLD: Final = "started"
ENGINE: Final = "engine killed"
ALL: Final = "all killed, started again"
KINDS: Final = (COLD, ENGINE, ALL)
RUNNING_ROWS: Final = 20  #: committed before the next kill
FIRST_SQL: Final = """
SELECT epoch_us(min(finished_at)) / 1e6 AS at FROM results WHERE epoch_us(started_at) / 1e6 > {}"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    kind: str
    round: int
    api_s: float | None  #: until the API answered; None: it was not away
    first_token_s: float


def measure(settings: Settings, rows: int, rounds: int, say: Say) -> list[Start]:
    """Each round in a home of its own."""
    return [start for number in range(rounds) for start in _round(settings, rows, number, say)]


def report(starts: list[Start]) -> dict[str, Any]:
    """As it is written to JSON."""
    return {
        "metric": "seconds to the first token",
        "first_token_s": {kind: first_token(starts, kind) for kind in KINDS},
        "runs": [asdict(start) for start in starts],
    }


def first_token(starts: list[Start], kind: str) -> Ratio:
    return Ratio.of([start.first_token_s for start in starts if start.kind == kind])


def _round(settings: Settings, rows: int, number: int, say: Say) -> list[Start]:
    with loading(settings) as cluster:
        begun_at = time.time()
        cluster.up(engines=0)
        api_s = time.time() - begun_at
        wanted = [replace(prompt, tokens=1) for prompt in prompts(rows, seed=0)]
        batch_id = cluster.post("/v1/batches", json=uploaded(cluster, wanted))["id"]
        starts = [Start(COLD, number, api_s, _first_token_s(cluster, batch_id, begun_at))]
        say(f"round {number + 1}, {COLD}: {starts[-1].first_token_s:.1f} s")

        _wait_running(cluster, batch_id)
        killed_at = time.time()
        os.kill(_engine_pid(cluster), signal.SIGKILL)
        starts.append(Start(ENGINE, number, None, _first_token_s(cluster, batch_id, killed_at)))
        say(f"round {number + 1}, {ENGINE}: {starts[-1].first_token_s:.1f} s")

        _wait_running(cluster, batch_id)
        killed_at = time.time()
        cluster.kill_everything()
        cluster.up(engines=0)
        api_s = time.time() - killed_at
        starts.append(Start(ALL, number, api_s, _first_token_s(cluster, batch_id, killed_at)))
        say(f"round {number + 1}, {ALL}: {starts[-1].first_token_s:.1f} s")
    return starts


def _engine_pid(cluster: OwnCluster) -> int:
    """Of the process that holds the model: the largest, for Python starts small helpers beside it."""
    return max(cluster.pids("engine-child"), key=lambda pid: psutil.Process(pid).memory_info().rss)


def _first_token_s(cluster: OwnCluster, batch_id: str, since: float) -> float:
    """From ``since`` to the end of the first row that began after it; looked up once it is committed."""
    found: list[float] = []

    def known() -> bool:
        with contextlib.suppress(RaybatchError, httpx.HTTPError):
            (row,) = cluster.sql(batch_id, FIRST_SQL.format(since))
            found.extend([row["at"]] if row["at"] is not None else [])
        return bool(found)

    until(known, ENGINE_READY_MAX_S, f"no row of {batch_id} has been answered", look_s=1.0)
    return found[0] - since


def _wait_running(cluster: OwnCluster, batch_id: str) -> None:
    """Until it has gone on for a while. Raises TimeoutError, and AssertionError when it has ended before."""
    counts = cluster.get(f"/v1/batches/{batch_id}")["request_counts"]
    least = counts["completed"] + RUNNING_ROWS

    def gone_on() -> bool:
        shown = cluster.get(f"/v1/batches/{batch_id}")
        assert shown["status"] == "in_progress", f"{batch_id} is {shown['status']}: it needs more rows"
        return bool(shown["request_counts"]["completed"] >= least)

    until(gone_on, ENGINE_READY_MAX_S, f"{batch_id} does not go on")
