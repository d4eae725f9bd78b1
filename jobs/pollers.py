"""What it costs when many clients ask how a batch goes, and how long an answer takes them.

On the echo engine, whose steps take their time: a batch that nobody asks about (but the run itself, ten times
a second) beside one that hundreds of clients look at, in the order A-B-B-A.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgspec

from jobs.echo_cluster import EchoCluster
from jobs.poller_child import READY, Polled
from jobs.runs import Ratio
from jobs.trial import Trial, requests

ALONE: Final = "nobody asks"
POLLED: Final = "clients ask"
ORDER: Final = (ALONE, POLLED, POLLED, ALONE)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Clients:
    count: int
    every_s: float  #: between two looks of one of them


@dataclass
class Run:
    arm: str
    round: int
    rows: int
    wall_s: float = 0.0  #: from creation to completion
    latencies_ms: list[float] = field(default_factory=list)
    failed: int = 0

    def latency_ms(self, share: float) -> float:
        """That so many of the answers stayed within."""
        return quantile(self.latencies_ms, share)


def measure(cluster: EchoCluster, clients: Clients, rows: int, rounds: int, say: Say) -> list[Run]:
    """Raises AssertionError when a row is not what it must be."""
    Trial(cluster, requests(50)).wait_ended()  # warms up
    runs = []
    for number in range(rounds):
        for arm in ORDER:
            run = Run(arm, number, rows)
            _run(cluster, clients, run)
            told = f", p99 {run.latency_ms(0.99):.0f} ms" if run.latencies_ms else ""
            say(f"round {number + 1}: {arm}, {run.wall_s:.2f} s{told}")
            runs.append(run)
    return runs


def report(runs: list[Run], clients: Clients) -> dict[str, Any]:
    """As it is written to JSON."""
    rounds = sorted({run.round for run in runs})
    polled = [run for run in runs if run.arm == POLLED]
    return {
        "metric": "time of a batch that many clients ask about ÷ alone; what an answer takes them, in ms",
        "ratio": {
            "time": Ratio.of(
                [_mean_s(runs, POLLED, number) / _mean_s(runs, ALONE, number) for number in rounds]
            )
        },
        "arms": {
            "latency_ms": {
                name: Ratio.of([run.latency_ms(share) for run in polled])
                for name, share in (("p50", 0.5), ("p99", 0.99))
            },
            "answers": sum(len(run.latencies_ms) for run in polled),
            "failed": sum(run.failed for run in polled),
        },
        "clients": clients,
        "runs": [asdict(run) for run in runs],
    }


def quantile(figures: Sequence[float], share: float) -> float:
    """The smallest of them that so many do not exceed."""
    return sorted(figures)[max(0, -(-round(share * 1000) * len(figures) // 1000) - 1)]


def _run(cluster: EchoCluster, clients: Clients, run: Run) -> None:
    trial = Trial(cluster, requests(run.rows))
    url = f"{cluster.url}/v1/batches/{trial.batch_id}"
    with asked_by(url, clients, run) if run.arm == POLLED else nullcontext():
        trial.wait_ended()
    if faults := trial.verdict().faults:
        raise AssertionError(f"{trial.batch_id} went wrong: {faults}")
    batch = cluster.batch(trial.batch_id)
    assert batch.completed_at is not None
    run.wall_s = batch.completed_at - batch.created_at


@contextmanager
def asked_by(url: str, clients: Clients, run: Run) -> Iterator[None]:
    """Until the block ends; then the run has what the clients saw."""
    command = [sys.executable, "-m", "jobs.poller_child", url, str(clients.count), str(clients.every_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == READY, "the clients did not start"
        try:
            yield
        finally:
            child.stdin.close()
            seen = msgspec.json.decode(child.stdout.read(), type=Polled)
            run.latencies_ms, run.failed = seen.latencies_ms, seen.failed


def _mean_s(runs: list[Run], arm: str, number: int) -> float:
    walls_s = [run.wall_s for run in runs if (run.arm, run.round) == (arm, number)]
    return sum(walls_s) / len(walls_s)
