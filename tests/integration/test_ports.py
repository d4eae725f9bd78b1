from __future__ import annotations

import pytest

from jobs.echo_cluster import EchoCluster
from jobs.ports import API, METRICS, Listener, inventory
from jobs.strangers import STRANGERS, attempt, attempts_of_strangers, ways_in

pytestmark = pytest.mark.cluster

#: Serve binds its replicas' gRPC server to all addresses and offers no setting; it asks for the token
NOT_ON_LOOPBACK_ALONE = {"Serve replica"}


@pytest.fixture(scope="module")
def listeners(shared: EchoCluster) -> list[Listener]:
    return inventory(shared.home)


def test_every_port_is_known_and_only_api_and_metrics_answer_without_the_token(
    listeners: list[Listener],
) -> None:
    assert {listener.what for listener in listeners} >= {API, "GCS", "raylet", "dashboard and job API"}
    assert [listener for listener in listeners if not listener.sound] == []
    assert {listener.what for listener in listeners if not listener.refuses} <= {API, METRICS}


def test_ports_are_for_this_machine_alone(listeners: list[Listener]) -> None:
    assert {found.what for found in listeners if not found.loopback_only} <= NOT_ON_LOOPBACK_ALONE


def test_only_the_owner_of_the_token_can_join(shared: EchoCluster) -> None:
    ways = ways_in(shared.home)
    assert ways.keys() == {"driver", "Ray Client", "job"}
    tried = attempts_of_strangers(shared.home)
    assert len(tried) == len(ways) * len(STRANGERS)
    assert [stranger for stranger in tried if stranger.succeeded] == []
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(shared.home.run / "ray_token")}
    # not through Ray Client: its server starts a process for each guest and gives it 30 s, too few on a busy
    # machine; that its port asks for the token is known from the inventory
    owners = [attempt(shared.home, way, "the owner", token) for way in ("driver", "job")]
    assert [owner for owner in owners if not owner.succeeded] == []
