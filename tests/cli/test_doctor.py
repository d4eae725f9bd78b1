"""The doctor names what is wrong and what helps, on machines of every kind."""

from __future__ import annotations

import json
import resource
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from raybatch.actors.cluster_facts import ClusterFacts
from raybatch.cli import doctor, doctor_machine
from raybatch.cli.doctor_machine import Finding, Verdict
from raybatch.config import ApiSettings, Home, ModelSettings, make_settings
from raybatch.engine import model_source
from raybatch.engine.model_source import Hub
from raybatch.errors import EngineFailed
from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer, engine_json, overview_json

ANSWERING = Hub("https://hub.example", offline=False, has_token=True, fault=None)


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the real one."""
    monkeypatch.setattr(model_source, "look_at_hub", lambda look_up_max_s: ANSWERING)


@pytest.fixture
def settled(home: Home) -> Home:
    """A home with settings that any machine can keep."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    home.save(make_settings("cpu", ("engine.kind=echo", f"api.port={port}"), models=(ModelSettings("m"),)))
    return home


def by_check(printed: str) -> dict[str, Finding]:
    findings = [Finding(**finding) for finding in json.loads(printed)]
    return {finding.check: finding for finding in findings}


def test_a_machine_that_never_ran_it_gets_a_line_for_each_check(
    raybatch: Run, settled: Home, tmp_path: Path
) -> None:
    result = raybatch("doctor")
    lines = result.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warning", "problem"}
    assert result.exit_code == int(any(line.startswith("problem") for line in lines))
    for check in ("python", "ray", "vllm", "memory", "disk", "GPU", "port", "hub", "cluster", "logs"):
        assert sum(line[9:].startswith(check + " ") for line in lines) >= 1, check
    listed = by_check(raybatch("doctor", "--json").stdout)
    assert listed["python"].verdict == "ok"
    assert listed["ray"].verdict == "ok"
    assert listed["cluster"].found == "not running"
    fresh = by_check(raybatch("doctor", "--json", "--home", str(tmp_path / "never")).stdout)
    assert "none yet" in fresh["settings"].found
    assert not (tmp_path / "never").exists()


def test_settings_that_cannot_be_read_are_a_problem_and_no_end(raybatch: Run, home: Home) -> None:
    home.settings_path.write_text("{")
    result = raybatch("doctor", "--json")
    assert result.exit_code == 1
    found = by_check(result.stdout)
    assert found["settings"].verdict == "problem"
    assert "logs" in found


def test_a_check_that_breaks_is_a_problem_of_its_own(
    raybatch: Run, settled: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Finding:
        raise OSError("no such counter")

    monkeypatch.setattr(doctor_machine, "memory", broken)
    result = raybatch("doctor", "--json")
    found = by_check(result.stdout)
    assert result.exit_code == 1
    assert "OSError: no such counter" in found["memory"].found
    assert found["logs"].verdict == "ok"


def test_a_running_cluster_is_asked_how_it_is(
    raybatch: Run, server: FakeServer, running: ClusterFacts
) -> None:
    lost = engine_json(engine_id="engine-1-0", lost=True, silent_s=75.0)
    failed = engine_json(engine_id="engine-2-0", phase="failed", error="no such model")
    server.answer("GET", "/admin/overview", overview_json(engine_json(), lost, failed))
    found = by_check(raybatch("doctor", "--json").stdout)
    assert found["cluster"].verdict == "ok"
    assert "this raybatch's own" in found["port"].found
    assert found["engine org-small-0"].verdict == "ok"
    assert "75 s" in found["engine engine-1-0"].found
    assert "no such model" in found["engine engine-2-0"].found
    full = overview_json()
    full["overview"] |= {
        "state": "disk_full",
        "models": [{"model": "org/gated", "state": "failed", "error": "it is gated"}],
    }
    server.answer("GET", "/admin/overview", full)
    found = by_check(raybatch("doctor", "--json").stdout)
    assert (found["cluster"].verdict, found["cluster"].helps.split(":")[0]) == ("problem", "free some space")
    assert "it is gated" in found["model org/gated"].found
    server.answer("GET", "/admin/overview", (503, {"error": {"message": "the scheduler is starting"}}))
    found = by_check(raybatch("doctor", "--json").stdout)
    assert found["cluster"].verdict == "problem"
    assert "the scheduler is starting" in found["cluster"].found


def test_a_taken_port_names_who_has_it(raybatch: Run, settled: Home) -> None:
    settings = settled.load()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        settled.save(replace(settings, api=ApiSettings(port=listener.getsockname()[1])))
        found = by_check(raybatch("doctor", "--json").stdout)["port"]
    assert found.verdict == "problem"
    assert "is taken by pid" in found.found


@pytest.mark.parametrize(
    ("hub", "verdict", "named"),
    [
        (ANSWERING, "ok", "answers"),
        (replace(ANSWERING, fault="timed out"), "warning", "timed out"),
        (replace(ANSWERING, offline=True), "warning", "HF_HUB_OFFLINE"),
        (None, "warning", "not installed"),
    ],
)
def test_a_hub_that_is_away_is_a_warning(hub: Hub | None, verdict: str, named: str) -> None:
    first, *_ = doctor.hub_access(hub)
    assert first.verdict == verdict
    assert named in first.found


def test_a_token_is_said_to_be_there_and_never_shown(
    raybatch: Run, settled: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    printed = raybatch("doctor").stdout
    assert "hub token      present" in printed
    assert "hf_secret" not in printed


def test_models_are_looked_for_and_the_download_is_measured(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(source: str, look_up_max_s: float) -> int:
        if source == "org/gated":
            raise EngineFailed("The model org/gated is gated.")
        return {"org/here": 0, "org/there": 5 << 30}[source]

    monkeypatch.setattr(model_source, "check_model_source", check)
    names = ("org/here", "org/there", "org/gated")
    settings = make_settings("cpu", models=tuple(ModelSettings(name) for name in names))
    here, there, gated = doctor.models(home, settings)
    assert (here.verdict, here.found) == ("ok", "on this machine")
    assert there.found == "5.0 GiB to be downloaded"
    assert (gated.verdict, gated.found) == ("problem", "The model org/gated is gated.")


def test_packages_are_held_against_what_was_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"raybatch": "0.1.0", "ray": "2.50.0", "duckdb": "1.5.6", "pyarrow": "26.0.1"}
    monkeypatch.setattr(doctor, "_version", installed.get)
    found = {finding.check: finding for finding in doctor.packages()}
    assert found["duckdb"].verdict == "ok"
    assert found["ray"].verdict == "warning"
    assert "ray 2.50.0, tested is ==2.60.0" in found["ray"].found
    assert "only the echo engine" in found["vllm"].found


def test_without_the_lock_the_packages_own_requirements_hold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor.raybatch, "__file__", str(tmp_path / "raybatch" / "__init__.py"))
    installed = {"raybatch": "0.1.0", "ray": "2.60.0", "duckdb": "2.0.0", "pyarrow": "26.0.1", "vllm": "0.1"}
    monkeypatch.setattr(doctor, "_version", installed.get)
    found = {finding.check: finding.verdict for finding in doctor.packages()}
    assert found["ray"] == "ok"
    assert found["duckdb"] == "warning"
    assert found["vllm"] == "warning"


@pytest.mark.parametrize(
    ("free_bytes", "verdict"), [(1 << 29, "problem"), (5 << 30, "warning"), (50 << 30, "ok")]
)
def test_disk_space_is_held_against_what_stops_intake(
    home: Home, monkeypatch: pytest.MonkeyPatch, free_bytes: int, verdict: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free_bytes))
    assert doctor_machine.disk(home, make_settings("cpu")).verdict == verdict


@pytest.mark.parametrize(
    ("kind", "verdict", "named"),
    [
        ("ext4", "ok", "ext4"),
        ("nfs4", "warning", "fsync and file locks"),
        ("fuse.sshfs", "warning", "fsync and file locks"),
        ("tmpfs", "warning", "gone after a restart"),
        ("overlay", "warning", "container"),
    ],
)
def test_the_file_system_of_the_home_is_the_one_mounted_nearest(
    tmp_path: Path, kind: str, verdict: str, named: str
) -> None:
    mounts = tmp_path / "mounts"
    home = Home(tmp_path / "a b" / "home")
    mounted_at = str(tmp_path / "a b").replace(" ", "\\040")
    home.root.mkdir(parents=True)
    mounts.write_text(
        f"/dev/x / ext4 rw 0 0\nserver:/x {mounted_at} {kind} rw 0 0\nnfs /elsewhere nfs rw 0 0\n"
    )
    found = doctor_machine.file_system(home, mounts)
    assert found.verdict == verdict
    assert named in found.found + found.helps
    assert str(tmp_path / "a b") in found.found


def test_a_memory_limit_of_a_container_counts(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(f"{2 << 30}\n")
    found = doctor_machine.memory(limit)
    assert found.verdict == "warning"
    assert "of 2.0 GiB" in found.found


def test_a_path_too_long_for_rays_sockets_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Home(tmp_path / ("x" * 60))
    assert doctor_machine.temp_folder(long).verdict in ("ok", "problem")
    monkeypatch.setattr(doctor_machine.tempfile, "gettempdir", lambda: "/" + "y" * 60)
    found = doctor_machine.temp_folder(long)
    assert found.verdict == "problem"
    assert "at most 40" in found.found


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [((1024, 4096), "warning"), ((1024, 1 << 20), "ok"), ((1024, resource.RLIM_INFINITY), "ok")],
)
def test_open_files_are_judged_by_what_may_be_had(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], verdict: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    assert doctor_machine.open_files().verdict == verdict


def test_a_clock_that_is_off_is_seen_by_its_year_and_by_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = doctor_machine.CLOCK_LEAST_AT + 1e6
    monkeypatch.setattr(doctor_machine, "time", SimpleNamespace(time=lambda: now))
    assert doctor_machine.clock(None).verdict == "ok"
    assert doctor_machine.clock(now + 60).verdict == "ok"
    assert doctor_machine.clock(now + 7200).verdict == "warning"
    monkeypatch.setattr(doctor_machine, "time", SimpleNamespace(time=lambda: 0.0))
    assert doctor_machine.clock(None).verdict == "problem"


@pytest.fixture
def machine(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(proc=tmp_path / "proc", devices=tmp_path / "devices")


@pytest.mark.parametrize(
    ("profile", "driver", "card", "verdict", "named"),
    [
        ("cpu", False, False, Verdict.OK, "engines run on the CPU"),
        ("cpu", False, True, Verdict.WARNING, "install NVIDIA's driver"),
        ("desktop", False, True, Verdict.PROBLEM, "install NVIDIA's driver"),
        ("desktop", True, True, Verdict.PROBLEM, "--gpus all"),
        ("desktop", False, False, Verdict.PROBLEM, "--profile cpu"),
    ],
)
def test_a_missing_gpu_is_explained_by_what_is_there(
    machine: SimpleNamespace, profile: str, driver: bool, card: bool, verdict: Verdict, named: str
) -> None:
    if driver:
        (machine.proc / "driver/nvidia").mkdir(parents=True)
        (machine.proc / "driver/nvidia/version").write_text(
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 1 2025\n"
        )
        assert doctor_machine.driver_version(machine.proc) == "570.86.15"
    if card:
        device = machine.devices / "0000:01:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text("0x030000\n")
    found = doctor_machine.no_gpu(make_settings(profile), "no driver", machine.proc, machine.devices)
    assert found.verdict is verdict
    assert named in found.found + found.helps
