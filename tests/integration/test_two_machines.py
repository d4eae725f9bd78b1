"""A head and a second Ray that stands for another machine: started as cluster.yaml says, with a shared home.

Both are on this machine, at its own address of the network, or on loopback where it has no other. Each has
one GPU as far as Ray knows, so that an engine is placed on each, as on real machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from jobs.echo_cluster import EchoCluster, make_cluster, until
from jobs.trial import Trial, committed, requests
from raybatch.actors.cluster_facts import CLUSTER_VARIABLE, running
from raybatch.actors.ports import free_ports

pytestmark = [pytest.mark.cluster, pytest.mark.long]

ROOT = Path(__file__).resolve().parent.parent.parent
ONE_GPU = {"RAY_OVERRIDE_RESOURCES": '{"GPU": 1}'}
ROWS = 3000
ROWS_PER_S = 200  #: of each engine
SILENT_S = 3
START_MAX_S = 120

PLACES = """
import json
from ray.util.state import list_actors, list_nodes
heads = {node.node_id for node in list_nodes() if node.is_head_node}
actors = [(actor.class_name, actor.node_id) for actor in list_actors(filters=[("state", "=", "ALIVE")])]
print(json.dumps([(name, "head" if place in heads else "other") for name, place in actors]))
"""


class OtherMachine:
    """All of it that another machine has: Ray's processes, an engine, and no part of the head's."""

    def __init__(self, head: EchoCluster) -> None:
        self._head = head
        self._temp_dir = Path(tempfile.mkdtemp(prefix="rb-"))
        self._marker = f"other-{self._temp_dir.name}"

    def start(self) -> None:
        """With cluster.yaml's own command, but for what two machines in one must not share."""
        (command,) = (
            command
            for command in yaml.safe_load((ROOT / "cluster.yaml").read_text())["worker_start_ray_commands"]
            if "ray start" in command
        )
        facts = running(self._head.home)
        assert facts is not None
        address, _, port = facts.ray_address.rpartition(":")
        command = command.replace("/srv/raybatch", str(self._head.home.root)).replace(":6390", f":{port}")
        apart = (
            f"--node-ip-address={address} --temp-dir={self._temp_dir}"
            f" --num-cpus=1 --dashboard-agent-listen-port={free_ports(1)[0]}"
        )
        log = self._temp_dir / "start.log"
        with log.open("wb") as output:  # not a pipe, which would stay open in what it starts
            started = subprocess.run(
                ["bash", "-c", f"{command.strip()} {apart}"],
                env={
                    "HOME": str(self._make_user()),
                    "PATH": os.environ["PATH"],
                    "RAY_HEAD_IP": address,
                    CLUSTER_VARIABLE: self._marker,
                    **ONE_GPU,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=START_MAX_S,
                check=False,
            )
        assert started.returncode == 0, log.read_text()

    def engines(self) -> int:
        """How many run on it."""
        names = []
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                names.append(" ".join(process.cmdline()))
        return sum("ray::EngineActor" in name for name in names)

    def lose(self) -> None:
        """As when its power fails."""
        while found := self._processes():
            for process in found:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(found, timeout=5)

    def close(self) -> None:
        self.lose()
        shutil.rmtree(self._temp_dir, ignore_errors=True)

    def _make_user(self) -> Path:
        """A home directory as `ray up` leaves it: the checkout and the token."""
        user = self._temp_dir / "user"
        (user / ".config/raybatch").mkdir(parents=True, exist_ok=True)
        shutil.copy(self._head.home.run / "ray_token", user / ".config/raybatch/ray_token")
        (user / "raybatch").mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (user / "raybatch/.venv").symlink_to(sys.prefix)
        return user

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(CLUSTER_VARIABLE) == self._marker:
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[EchoCluster, OtherMachine]]:
    settings = (
        *("engine.gpus=1", "engine.replicas=2", "ray.dashboard=true"),
        *(f"ray.node_ip={_own_address()}", f"ray.head_port={free_ports(1)[0]}"),
        *(f"scheduler.lease_s={SILENT_S}", f"scheduler.engine_silent_s={SILENT_S}"),
    )
    head = make_cluster(*settings, rows_per_s=ROWS_PER_S)
    other = OtherMachine(head)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ONE_GPU.items():
                patch.setenv(name, value)
            head.up(engines=1)
        other.start()
        _wait_both_ready(head)
        yield head, other
    finally:
        other.close()
        head.close()


def test_the_other_machine_has_an_engine_and_nothing_else(
    machines: tuple[EchoCluster, OtherMachine],
) -> None:
    head, other = machines
    assert (len(head.pids("engine")), other.engines()) == (1, 1)
    assert _phases(head) == {"engine-0-0": "ready", "engine-0-1": "ready"}
    Trial(head, requests(100)).wait_ended()  # so that there was something to take in
    places = _places(head)
    assert [name for name, place in places if place == "other"] == ["EngineActor"]
    on_head = {name for name, place in places if place == "head"}
    assert on_head >= {"ChoreActor", "EngineActor", "SchedulerActor", "ServeReplica:raybatch:door"}


def test_a_lost_machine_costs_no_row_and_gets_an_engine_when_it_comes_back(
    machines: tuple[EchoCluster, OtherMachine],
) -> None:
    head, other = machines
    trial = Trial(head, requests(ROWS))
    trial.wait_committed(ROWS // 4)
    other.lose()
    lost_at = committed(trial.look() or {})
    assert trial.verdict().faults == []
    assert trial.wait_ended()["status"] == "completed"
    rows = Counter(row["engine_id"] for row in head.sql(trial.batch_id, "SELECT engine_id FROM results"))
    assert rows.keys() == {"engine-0-0", "engine-0-1"}, "one engine had all rows: nothing was tried"
    assert lost_at < ROWS, "the batch had ended already: nothing was tried"
    assert set(_phases(head).values()) == {"ready", "lost"}
    other.start()
    _wait_both_ready(head)
    assert other.engines() == 1


def _wait_both_ready(head: EchoCluster) -> None:
    until(lambda: head.ready_engines() == 2, START_MAX_S, "no engine is ready on the other machine")


def _own_address() -> str:
    """The one at which others of the network reach this machine; loopback where it has none."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    addresses = (
        address.address
        for name, found in psutil.net_if_addrs().items()
        if name in up
        for address in found
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    )
    return next(addresses, "127.0.0.1")


def _phases(head: EchoCluster) -> dict[str, str]:
    """As `raybatch status` has them."""
    told = subprocess.run(
        [Path(sys.executable).with_name("raybatch"), "--home", str(head.home.root), "status", "--json"],
        capture_output=True,
        timeout=START_MAX_S,
        check=True,
    )
    return {engine["id"]: engine["phase"] for engine in json.loads(told.stdout)["health"]["engines"]}


def _places(head: EchoCluster) -> list[tuple[str, str]]:
    """Every live actor by its name, and the machine it is on."""
    facts = running(head.home)
    assert facts is not None
    token = str(head.home.run / "ray_token")
    asked = subprocess.run(
        [sys.executable, "-c", PLACES],
        env=os.environ
        | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": token,
            "RAY_API_SERVER_ADDRESS": str(facts.dashboard_url),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_MAX_S,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    return [(name, place) for name, place in json.loads(asked.stdout)]
