from __future__ import annotations

import signal
from collections.abc import Iterator

import httpx
import pytest

from jobs.echo_cluster import EchoCluster, echo_cluster, make_cluster
from jobs.trial import TRIAL_MAX_S, Trial, committed, requests
from raybatch.actors.cluster_facts import processes, running, wait_gone
from raybatch.core.model import ChunkState
from raybatch.core.state import State
from raybatch.errors import OperatorError
from raybatch.ledger.durable import DurableMemory

pytestmark = pytest.mark.cluster


@pytest.fixture
def beside(shared: EchoCluster) -> Iterator[EchoCluster]:
    """A second raybatch on the same machine, slow."""
    with echo_cluster(rows_per_s=150) as cluster:
        yield cluster


def test_down_drains_and_up_goes_on_while_another_home_is_left_alone(
    shared: EchoCluster, beside: EchoCluster
) -> None:
    trial = Trial(beside, requests(1000))
    shown = committed(trial.wait_committed(200))
    neighbours = [process.pid for process in processes(shared.home)]
    beside.down()
    assert (running(beside.home), processes(beside.home)) == (None, [])
    remembered = _remembered(beside)
    assert remembered.batches[trial.batch_id].finished_rows >= shown
    assert not [chunk for chunk in remembered.chunks.values() if chunk.state is ChunkState.LEASED]
    assert [process.pid for process in processes(shared.home) if process.pid in neighbours] == neighbours
    assert Trial(shared, requests(100)).verdict().faults == []
    beside.up(engines=0)
    assert committed(trial.wait_committed(0)) >= shown
    assert trial.verdict().faults == []
    assert trial.wait_ended()["status"] == "completed"


def test_a_taken_port_is_named_with_the_process_that_has_it(shared: EchoCluster) -> None:
    second = make_cluster(f"api.port={shared.settings.api.port}")
    holders = "|".join(str(pid) for role in ("supervisor", "replica") for pid in shared.pids(role))
    try:
        with pytest.raises(
            OperatorError, match=f"port {shared.settings.api.port} .* by pid ({holders}) "
        ) as refused:
            second.up()
        assert "--port" in refused.value.message
    finally:
        second.close()
    assert shared.get("/health")["status"]


def test_a_request_that_comes_while_the_replica_is_away_is_answered_by_the_next(shared: EchoCluster) -> None:
    assert wait_gone(shared.signal("replica", signal.SIGKILL), TRIAL_MAX_S)
    assert httpx.get(f"{shared.url}/v1/batches", timeout=TRIAL_MAX_S).json()["object"] == "list"


def test_a_home_that_runs_is_not_started_twice(shared: EchoCluster) -> None:
    before = [process.pid for process in processes(shared.home)]
    with pytest.raises(OperatorError, match="is running already"):
        shared.up()
    assert [process.pid for process in processes(shared.home) if process.pid in before] == before


def _remembered(cluster: EchoCluster) -> State:
    """What a cluster that does not run has on disk."""
    memory = DurableMemory(cluster.home.ledger)
    try:
        return memory.load()
    finally:
        memory.close()
