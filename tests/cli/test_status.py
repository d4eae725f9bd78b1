from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from raybatch.actors.cluster_facts import CLUSTER_VARIABLE, ClusterFacts, cluster_id
from raybatch.config import Home
from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer, engine_json, overview_json


@pytest.fixture
def engine_process(home: Home) -> Iterator[int]:
    """A process that carries this home's mark and the name Ray gives an engine."""
    command = ["bash", "-c", "exec -a ray::EngineActor sleep 600"]
    marked = {**os.environ, CLUSTER_VARIABLE: cluster_id(home)}
    process = subprocess.Popen(command, env=marked)
    yield process.pid
    process.kill()
    process.wait()


def test_nothing_running_is_stopped_and_exit_status_3(raybatch: Run) -> None:
    result = raybatch("status")
    assert (result.exit_code, result.stdout) == (3, "raybatch: stopped\n")
    as_json = raybatch("status", "--json")
    assert as_json.exit_code == 3
    stopped: dict[str, object] = {"phase": "stopped", "cluster": None, "overview": None, "processes": []}
    assert json.loads(as_json.stdout) == stopped


def test_one_screen_shows_the_cluster_its_engines_and_its_batches(
    raybatch: Run, server: FakeServer, running: ClusterFacts
) -> None:
    engines = (engine_json(), engine_json(engine_id="org-small-1", lost=True))
    server.answer("GET", "/admin/overview", overview_json(*engines))
    result = raybatch("status")
    assert result.exit_code == 0
    assert "ready, serving" in result.stdout
    assert running.api_url in result.stdout
    assert "http://127.0.0.1:8265" in result.stdout
    first, second = (line.split() for line in result.stdout.splitlines() if "org-small-" in line)
    assert first[:4] == ["org-small-0", "org/small", "ready", "0"]
    assert first[-5:] == ["31", "64", "128", "12.5", "980"]
    assert second[2] == "lost"
    assert "1 in_progress, 2 completed; 1,500 rows to go" in result.stdout


def test_json_has_every_process_with_its_role(
    raybatch: Run, server: FakeServer, running: ClusterFacts, engine_process: int
) -> None:
    server.answer("GET", "/admin/overview", overview_json(engine_json()))
    seen = json.loads(raybatch("status", "--json").stdout)
    assert (seen["phase"], seen["cluster"]) == ("ready", asdict(running))
    assert seen["overview"]["engines"] == [engine_json()]
    roles = {process["pid"]: process["role"] for process in seen["processes"]}
    assert roles == {running.supervisor_pid: "supervisor", engine_process: "engine"}
    assert all(process["rss_bytes"] > 0 for process in seen["processes"])


def test_processes_left_by_a_crash_are_shown_though_nothing_runs(raybatch: Run, engine_process: int) -> None:
    result = raybatch("status")
    assert result.exit_code == 3
    assert "stopped" in result.stdout
    assert str(engine_process) in result.stdout


def test_a_silent_scheduler_is_said_and_is_no_failure(
    raybatch: Run, server: FakeServer, running: ClusterFacts
) -> None:
    server.answer("GET", "/admin/overview", (503, {"error": {"message": "the scheduler is starting"}}))
    result = raybatch("status")
    assert result.exit_code == 0
    assert "does not answer: the scheduler is starting" in result.stdout
