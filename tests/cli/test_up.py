from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from raybatch.actors import cluster
from raybatch.actors.cluster_facts import ClusterFacts
from raybatch.cli import up as up_module
from raybatch.config import PACKAGED_MODEL, ApiSettings, Home, ModelSettings, Settings, make_settings
from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer, engine_json, overview_json


@pytest.fixture(autouse=True)
def started(home: Home, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What the command asked to start; nothing is."""
    asked: list[Settings] = []

    def up(home: Home, settings: Settings, say: Callable[[str], None]) -> ClusterFacts:
        asked.append(settings)
        home.save(settings)
        say("starting Ray")
        url = server.url
        return ClusterFacts(str(home.root), "c1", "ready", "", 1, url, None, "", "", 0.0)

    monkeypatch.setattr(cluster, "up", up)
    monkeypatch.setattr(cluster, "up_foreground", lambda home, settings: asked.append(settings))
    monkeypatch.setattr(up_module, "has_gpu", lambda: False)
    return asked


def test_without_options_the_packaged_model_runs_on_what_the_machine_has(
    raybatch: Run, started: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = raybatch("up")
    assert result.exit_code == 0
    assert started == [make_settings("cpu", models=(PACKAGED_MODEL,))]
    assert PACKAGED_MODEL.id in result.stdout
    monkeypatch.setattr(up_module, "has_gpu", lambda: True)
    assert raybatch("up", "--port", "9000").exit_code == 0
    expected = make_settings("desktop", models=(PACKAGED_MODEL,), api=ApiSettings(port=9000))
    assert started[1] == expected


def test_options_become_settings(raybatch: Run, started: list[Settings], tmp_path: Path) -> None:
    words = [
        "--engine",
        "echo",
        "--profile",
        "test",
        "--set",
        "engine.replicas=2",
        "--set",
        "echo.alpha_ms=1",
    ]
    models = ["--model", "smollm2", "--model", f"mine={tmp_path}", "--model", "org/hub"]
    assert raybatch("up", *words, *models, "--foreground").exit_code == 0
    (settings,) = started
    assert (settings.engine.kind, settings.engine.replicas, settings.echo.alpha_ms) == ("echo", 2, 1.0)
    assert settings.profile == "test"
    mine = ModelSettings("mine", str(tmp_path))
    assert settings.models == (PACKAGED_MODEL, mine, ModelSettings("org/hub"))


def test_a_file_becomes_settings_and_options_win_over_it(
    raybatch: Run, started: list[Settings], tmp_path: Path
) -> None:
    path = tmp_path / "raybatch.toml"
    path.write_text(
        '[engine]\nkind = "echo"\n[api]\nport = 9003\nupload_bytes_max = 7\n[[models]]\nid = "org/a"\n'
    )
    assert raybatch("up", "--config", str(path), "--set", "echo.alpha_ms=1").exit_code == 0
    assert raybatch("up", "--config", str(path), "--port", "9004", "--model", "org/b").exit_code == 0
    file, options = started
    assert (file.engine.kind, file.profile, file.echo.alpha_ms) == ("echo", "cpu", 1.0)
    assert (file.api.port, file.models) == (9003, (ModelSettings("org/a"),))
    assert (options.api.port, options.api.upload_bytes_max) == (9004, 7)
    assert options.models == (ModelSettings("org/b"),)
    path.write_text("[engin]\n")
    refused = raybatch("up", "--config", str(path))
    assert refused.exit_code == 1
    assert f"{path}: unknown section 'engin'" in refused.stderr


def test_started_again_without_options_it_keeps_its_settings(raybatch: Run, started: list[Settings]) -> None:
    raybatch("up", "--engine", "echo", "--port", "9001", "--model", "org/hub")
    raybatch("up")
    assert started[1] == started[0]


def test_a_key_changes_the_settings_only_when_it_is_an_option(
    raybatch: Run, started: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    raybatch("up", "--port", "9001")
    monkeypatch.setenv("RAYBATCH_API_KEY", "sk-1")
    raybatch("up")
    assert started[1] == started[0]
    raybatch("up", "--api-key", "sk-1")
    assert started[2].api.key_sha256 is not None


def test_an_open_host_needs_a_key_and_only_its_digest_is_kept(
    raybatch: Run, started: list[Settings], home: Home
) -> None:
    refused = raybatch("up", "--host", "0.0.0.0")
    assert refused.exit_code == 1
    assert "--api-key" in refused.stderr
    assert raybatch("up", "--host", "0.0.0.0", "--api-key", "sk-secret").exit_code == 0
    assert started[0].api.key_sha256 == hashlib.sha256(b"sk-secret").hexdigest()
    assert "sk-secret" not in home.settings_path.read_text()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--engine", "tgi"], "choose vllm or echo"),
        (["--profile", "laptop"], "desktop"),
        (["--profile", "desktop"], "take --profile cpu"),  # this machine has no GPU, says the fixture
        (["--set", "engine.speed=9"], "'engine' has no setting 'speed'"),
        (["--set", "engine.replicas=many"], "'many'"),
        (["--set", "quiet.days=weekend"], "quiet.days is 'weekend'"),
        (["--model", "org/a", "--model", "org/a"], "two models answer to 'org/a'"),
        (["--config", "none.toml"], "none.toml: cannot be read"),
    ],
)
def test_a_wrong_option_is_answered_with_the_right_ones(
    raybatch: Run, started: list[Settings], words: list[str], named: str
) -> None:
    result = raybatch("up", *words)
    assert result.exit_code == 1
    assert named in result.stderr
    assert started == []


def test_running_already_with_the_same_settings_is_fine(
    raybatch: Run, home: Home, running: ClusterFacts, started: list[Settings]
) -> None:
    home.save(make_settings("cpu", models=(PACKAGED_MODEL,)))
    for words in ((), ("--profile", "cpu")):
        result = raybatch("up", *words)
        assert result.exit_code == 0
        assert "running already" in result.stderr
        assert running.api_url in result.stdout
    assert started == []


def test_running_already_with_other_settings_names_the_difference(
    raybatch: Run, home: Home, running: ClusterFacts, started: list[Settings]
) -> None:
    home.save(make_settings("cpu", ("engine.kind=echo",), models=(PACKAGED_MODEL,)))
    result = raybatch("up", "--engine", "vllm", "--profile", "cpu")
    assert result.exit_code == 1
    assert "engine.kind is echo, not vllm" in result.stderr
    assert "raybatch down" in result.stderr
    assert started == []


def test_waiting_says_how_the_models_come_up(
    raybatch: Run, server: FakeServer, running: ClusterFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = overview_json(engine_json(phase="loading", models=["org/ready-7b"]))
    starting = (503, {"error": {"message": "the scheduler is starting"}})
    answers = (starting, overview_json(), loading, loading, overview_json(engine_json()))
    server.answer("GET", "/admin/overview", *answers)
    monkeypatch.setattr(up_module, "has_gpu", lambda: True)
    result = raybatch("up", "--profile", "desktop", "--wait")
    assert result.exit_code == 0
    said = result.stderr.splitlines()
    assert [line.partition(" after")[0] for line in said[1:]] == [
        "starting",
        "org/ready-7b loading",
        "org/small ready",
    ]


def test_waiting_for_an_engine_that_cannot_start_ends_with_its_reason(
    raybatch: Run, server: FakeServer
) -> None:
    failed = engine_json(phase="failed", error="no such model: org/small")
    server.answer(
        "GET", "/admin/overview", overview_json(engine_json(phase="loading")), overview_json(failed)
    )
    result = raybatch("up", "--wait")
    assert result.exit_code == 1
    assert "no such model: org/small" in result.stderr


def test_waiting_ends_when_what_was_started_is_gone(raybatch: Run, server: FakeServer) -> None:
    server.answer("GET", "/admin/overview", None)
    result = raybatch("up", "--wait")
    assert result.exit_code == 1
    assert "raybatch logs" in result.stderr


def test_down_says_whether_anything_ran(raybatch: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def down(home: Home, now: bool, say: Callable[[str], None]) -> bool:
        asked.append(now)
        return now

    monkeypatch.setattr(cluster, "down", down)
    assert "nothing was running" in raybatch("down").stderr
    assert "stopped" in raybatch("down", "--now").stderr
    assert asked == [False, True]


def test_a_driver_without_a_device_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    import ctypes

    driver = SimpleNamespace(nvmlInit_v2=lambda: 0, nvmlDeviceGetCount_v2=lambda _: 0)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert not up_module.has_gpu()
    broken = SimpleNamespace(nvmlInit_v2=lambda: 9)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: broken)
    assert not up_module.has_gpu()


def test_the_url_of_a_home_is_where_its_settings_say(home: Home) -> None:
    from raybatch.actors.connection import own_url

    assert own_url(home) == "http://127.0.0.1:8420"
    home.save(replace(Settings(), api=ApiSettings(host="0.0.0.0", port=9002)))
    assert own_url(home) == "http://127.0.0.1:9002"
    home.save(replace(Settings(), api=ApiSettings(host="::1")))
    assert own_url(home) == "http://[::1]:8420"
