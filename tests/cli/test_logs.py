from __future__ import annotations

import json
from pathlib import Path

import pytest

from raybatch.actors import cluster_facts
from raybatch.actors.cluster_facts import ClusterFacts, ProcessFacts
from raybatch.config import Home
from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer

WORKER = "worker-0a1b-01000000-{pid}.err"


@pytest.fixture
def session(home: Home, running: ClusterFacts, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Ray session with the files of a scheduler, an engine, a replica and somebody unknown."""
    roles = {501: "scheduler", 502: "engine", 503: "other"}
    found = [ProcessFacts(pid, role, 1, 0.0, "ray::X") for pid, role in roles.items()]
    monkeypatch.setattr(cluster_facts, "processes", lambda home: found)
    sessions = Path(running.ray_temp_dir)
    (sessions / "session_2026-01-01_00-00-00_1_1" / "logs").mkdir(parents=True)
    (sessions / "session_2026-01-01_00-00-00_1_1" / "logs" / "older.log").write_text("an earlier run\n")
    (sessions / "session_latest").symlink_to(
        sessions / "session_2025-12-31_00-00-00_1_1"
    )  # Ray may leave it so
    folder = sessions / "session_2026-01-02_00-00-00_1_1" / "logs"
    (folder / "serve").mkdir(parents=True)
    for pid, role in roles.items():
        lines = "".join(f"{role} line {number}\n" for number in range(5))
        (folder / WORKER.format(pid=pid)).write_text(lines)
    (folder / "serve" / "replica_raybatch_door_abc.log").write_text("a request\n")
    (folder / "empty.log").touch()
    (home.logs / "supervisor.log").write_text("serving\n")
    return folder


def test_without_a_name_the_files_are_listed_with_who_writes_them(raybatch: Run, session: Path) -> None:
    listed = json.loads(raybatch("logs", "--json").stdout)
    assert {file["name"]: file["role"] for file in listed} == {
        "serve/replica_raybatch_door_abc.log": "api",
        "supervisor.log": "supervisor",
        WORKER.format(pid=501): "scheduler",
        WORKER.format(pid=502): "engine",
        WORKER.format(pid=503): "",
    }
    assert "supervisor.log" in raybatch("logs").stdout


@pytest.mark.parametrize(
    ("which", "shown"),
    [
        ("scheduler", "scheduler line 4"),
        ("api", "a request"),
        ("-503", "other line 4"),
        ("superv", "serving"),
    ],
)
def test_a_role_or_a_part_of_a_name_prints_the_ends(
    raybatch: Run, session: Path, capfd: pytest.CaptureFixture[str], which: str, shown: str
) -> None:
    assert raybatch("logs", "-n", "1", "--", which).exit_code == 0
    header, *lines = capfd.readouterr().out.splitlines()
    assert header.startswith("==> ")
    assert lines == [shown]


def test_a_name_that_no_file_has_is_refused(raybatch: Run, session: Path) -> None:
    result = raybatch("logs", "nonsense")
    assert result.exit_code == 1
    assert "'nonsense'" in result.stderr


def test_a_batch_id_prints_what_happened_to_it(raybatch: Run, server: FakeServer) -> None:
    entry = {"at": 1_000.0, "kind": "retried", "message": "3 failed requests run again", "engine": None}
    told = {"object": "list", "data": [entry], "has_more": False}
    server.answer("GET", "/v1/batches/batch_1/logs", told)
    (_, row) = raybatch("logs", "batch_1").stdout.splitlines()
    assert row.split() == ["1970-01-01", "00:16:40Z", "retried", "3", "failed", "requests", "run", "again"]
    assert json.loads(raybatch("logs", "batch_1", "--json").stdout) == told
