from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from raybatch.actors.cluster_facts import CLUSTER_VARIABLE, ClusterFacts, cluster_id
from raybatch.cli import status
from raybatch.cli.status import alerts
from raybatch.config import Home
from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer, batch_json, engine_json, gpu_json, overview_json


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
    stopped: dict[str, object] = {
        "phase": "stopped",
        "cluster": None,
        "overview": None,
        "health": None,
        "batches": [],
        "processes": [],
    }
    assert json.loads(as_json.stdout) == stopped


def test_one_screen_shows_the_cluster_its_engines_and_its_batches(
    raybatch: Run, server: FakeServer, running: ClusterFacts
) -> None:
    engines = (engine_json(), engine_json(engine_id="org-small-1", lost=True, batches=[]))
    server.answer("GET", "/admin/overview", overview_json(*engines))
    result = raybatch("status")
    assert result.exit_code == 0
    assert "ready, serving" in result.stdout
    assert running.api_url in result.stdout
    assert "http://127.0.0.1:8265" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    first, second = (row for row in rows if row and row[0].startswith("org-small-"))
    assert first[:4] == ["org-small-0", "org/small", "ready", "0"]
    assert first[-6:] == ["31", "64", "128", "12.5", "980", "batch_1"]
    assert second[2] == "lost"
    assert ["org/small", "ready", "1,500", "12", "950"] in rows
    assert "health     degraded" in result.stdout
    assert "engine org-small-1 was last heard of" in result.stdout
    assert "disk free  3.0 GiB" in result.stdout
    assert "GPUs" not in result.stdout
    assert "1 in_progress, 2 completed; 1,500 rows to go" in result.stdout


def test_a_gpu_is_shown_with_whose_memory_it_holds_and_the_verdict(
    raybatch: Run, server: FakeServer, running: ClusterFacts
) -> None:
    verdict = {"fitness": "strained", "window_share": 0.5, "reasons": ["GPU 0: 82 °C"]}
    engine = engine_json(gpus=[gpu_json()], verdict=verdict)
    told = overview_json(engine, state="paused", quiet="gentle")
    server.answer("GET", "/admin/overview", told)
    shown = raybatch("status").stdout
    (row,) = (line for line in shown.splitlines() if "RTX 4080" in line)
    assert row.split() == [
        *("0", "RTX", "4080", "org-small-0", "13.0", "GiB", "1.0", "GiB", "16.0", "GiB", "82"),
        *("250", "of", "320", "W", "97%", "strained,", "50%", "of", "the", "window"),
    ]
    assert "health     degraded\n           engine org-small-0 is strained" in shown
    assert "paused     everything" in shown
    assert "quiet      engines keep to a small window" in shown


def test_each_active_batch_has_its_progress_and_its_time_left(
    raybatch: Run, server: FakeServer, running: ClusterFacts
) -> None:
    server.answer("GET", "/admin/overview", overview_json(engine_json()))
    paused = batch_json("in_progress", id="batch_0")
    paused["raybatch"] = paused["raybatch"] | {"paused": True, "eta": None}
    listed = [batch_json("in_progress"), batch_json(id="batch_done"), paused]
    server.answer("GET", "/v1/batches?limit=100", {"data": listed, "has_more": False})
    shown = raybatch("status").stdout
    rows = [line.split() for line in shown.splitlines() if line.startswith(" batch_")]
    left = ["1", "min", "01", "s", "1", "min", "15", "s"]  # median, and what nine of ten beat
    assert rows == [
        ["batch_0", "paused", "org/small", "3", "1", "4", "2", "250", "—", "—"],
        ["batch_1", "in_progress", "org/small", "3", "1", "4", "2", "250", *left],
    ]
    told = json.loads(raybatch("status", "--json").stdout)
    assert [batch["id"] for batch in told["batches"]] == ["batch_0", "batch_1"]


@pytest.mark.parametrize("terminal", [False, True])
def test_watching_looks_again_and_shows_what_changed_until_it_is_interrupted(
    raybatch: Run,
    server: FakeServer,
    running: ClusterFacts,
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
) -> None:
    waited: list[float] = []

    def between(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            raise KeyboardInterrupt
        server.answer("GET", "/admin/overview", overview_json(engine_json(), state="paused"))

    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=between, time=time.time))
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    server.answer("GET", "/admin/overview", overview_json(engine_json(), state="serving"))
    shown = raybatch("status", "--watch").stdout
    assert shown.index("ready, serving") < shown.index("ready, paused")
    assert waited == [2.0, 2.0]
    assert ("\x1b[?1049h" in shown, "\x1b[?1049l" in shown) == (terminal, terminal)  # a screen of its own


def test_what_is_likely_to_go_wrong_is_said_in_words() -> None:
    late = batch_json("in_progress", expires_at=1_000)
    assert list(alerts([late])) == [
        "batch_1 will end 1 min 01 s after its window at this pace; --priority may help the next"
    ]
    failing = batch_json("in_progress", request_counts={"total": 900, "completed": 280, "failed": 20})
    assert list(alerts([failing])) == ["7% of what batch_1 has finished failed: `raybatch failed batch_1`"]
    fine = batch_json(
        "in_progress", expires_at=1_061, request_counts={"total": 9, "completed": 0, "failed": 9}
    )
    assert list(alerts([fine])) == []


def test_json_has_every_process_with_its_role(
    raybatch: Run, server: FakeServer, running: ClusterFacts, engine_process: int
) -> None:
    server.answer("GET", "/admin/overview", overview_json(engine_json()))
    seen = json.loads(raybatch("status", "--json").stdout)
    assert (seen["phase"], seen["cluster"]) == ("ready", asdict(running))
    assert seen["overview"]["engines"] == [engine_json()]
    assert seen["health"]["status"] == "ok"
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
