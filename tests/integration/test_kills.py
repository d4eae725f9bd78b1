from __future__ import annotations

import csv
import os
import signal
from collections.abc import Iterator

import httpx
import pytest

from jobs.echo_cluster import EchoCluster, echo_cluster, until
from jobs.kills import KINDS, UNHURRIED, run_round
from jobs.trial import Trial, requests

pytestmark = pytest.mark.cluster

ROWS = 1000
LEASE_S = 3


@pytest.fixture(scope="module")
def hurt() -> Iterator[EchoCluster]:
    """Slow enough that a kill lands between rows."""
    with echo_cluster(UNHURRIED, rows_per_s=150) as cluster:
        yield cluster


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_costs_no_row_and_doubles_none(hurt: EchoCluster, kind: str) -> None:
    assert run_round(hurt, kind, 0.3, ROWS).faults == ()


@pytest.mark.long
def test_an_engine_that_slept_past_its_lease_cannot_commit_its_rows_again() -> None:
    """Its rows were leased to the other engine meanwhile; what it says when it wakes is refused."""
    with echo_cluster("engine.replicas=2", f"scheduler.lease_s={LEASE_S}", rows_per_s=150) as cluster:
        trial = Trial(cluster, requests(ROWS))
        trial.wait_committed(ROWS // 10)
        sleeper = cluster.signal("engine", signal.SIGSTOP)
        try:
            assert trial.wait_ended()["status"] == "completed"  # by the other one alone
        finally:
            os.kill(sleeper, signal.SIGCONT)
        until(lambda: _oldest_heartbeat_s(cluster) < LEASE_S, 60, "the sleeper was not heard of again")
        assert trial.verdict().faults == []
        answer = httpx.get(f"{cluster.url}/v1/batches/{trial.batch_id}/results", params={"format": "csv"})
        rows = list(csv.DictReader(answer.text.splitlines()))
        assert any(row["attempt"] == "2" for row in rows), "no row was leased again: nothing was tried"


def _oldest_heartbeat_s(cluster: EchoCluster) -> float:
    return max(engine["heartbeat_age_s"] for engine in cluster.get("/health")["engines"])
