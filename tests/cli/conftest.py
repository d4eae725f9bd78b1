from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from raybatch.actors.cluster_facts import ClusterFacts, try_lock, write_facts
from raybatch.cli import progress, up
from raybatch.cli.main import app
from raybatch.config import PACKAGED_MODEL, Home, make_settings
from tests.cli.fake_server import ADMIN_TOKEN, FakeServer, serving

Run = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as fake:
        yield fake


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    (home.run / "admin_token").write_text(f"{ADMIN_TOKEN}\n")
    return home


@pytest.fixture
def raybatch(home: Home, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, against the fake server and a fresh home, without waiting between two looks."""
    for variable in ("RAYBATCH_HOME", "RAYBATCH_URL", "RAYBATCH_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    at_once = SimpleNamespace(sleep=lambda _: None, monotonic=lambda: 0.0)
    monkeypatch.setattr(progress, "time", at_once)
    monkeypatch.setattr(up, "time", at_once)

    def run(*words: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, ["--home", str(home.root), "--url", server.url, *words], input=stdin)

    return run


@pytest.fixture
def running(home: Home, server: FakeServer) -> Iterator[ClusterFacts]:
    """As if a supervisor had this home."""
    facts = ClusterFacts(
        home=str(home.root),
        cluster_id="c1",
        phase="ready",
        message="serving",
        supervisor_pid=os.getpid(),
        api_url=server.url,
        dashboard_url="http://127.0.0.1:8265",
        ray_address="127.0.0.1:6379",
        ray_temp_dir=str(home.root / "ray"),
        started_at=0.0,
    )
    home.save(make_settings("desktop", models=(PACKAGED_MODEL,)))
    with try_lock(home) as lock:
        assert lock is not None
        write_facts(home, facts)
        yield facts
