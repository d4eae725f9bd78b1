"""Every command in README and docs is run, against a live cluster on the echo engine.

`up` is parsed to the last option but starts nothing here (the lifecycle tests do that); `make` targets are
looked up.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.echo_cluster import EchoCluster, make_cluster, until
from raybatch.actors import cluster as cluster_module
from raybatch.cli.main import app
from raybatch.config import PACKAGED_MODEL

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ENDED_MAX_S = 120.0
RAYBATCH = [str(Path(sys.executable).with_name("raybatch"))]

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def _commands(page: Path) -> list[str]:
    lines = "".join(_blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def served() -> Iterator[EchoCluster]:
    made = make_cluster("ray.dashboard=true", rows_per_s=1500)
    made.settings = replace(made.settings, models=(PACKAGED_MODEL,))
    try:
        made.up()
        yield made
    finally:
        made.close()


def test_there_are_commands_to_run() -> None:
    assert sum(len(_commands(page)) for page in PAGES) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work(page: Path, served: EchoCluster, tmp_path: Path) -> None:
    for command in _commands(page):
        words = shlex.split(command)
        if words[0] == ".":
            assert words[1] == ".venv/bin/activate"
        elif words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[:2] == ["raybatch", "up"]:
            _parse_up(words[1:], served)
        elif words[0] == "raybatch":
            _run_raybatch(words[1:], served, tmp_path)
        elif words[0] == "python":
            _run([sys.executable, *_with_batch(words[1:], served)], served, tmp_path)
        elif words[0] == "eval":
            assert command == 'eval "$(raybatch env)"'
        elif words[0] == "ray":
            _run_ray(command, served, tmp_path)
        else:
            pytest.fail(f"{page.name}: no way to run {command!r}")


def test_the_python_of_the_readme_works(served: EchoCluster, tmp_path: Path) -> None:
    _run_raybatch(["demo-data", "--rows", "20", "-o", "questions.jsonl"], served, tmp_path)
    (code,) = _blocks(ROOT / "README.md", "python")
    assert "http://127.0.0.1:8420" in code

    printed = _run(
        [sys.executable, "-c", code.replace("http://127.0.0.1:8420", served.url)], served, tmp_path
    )

    assert '"custom_id"' in printed


def _parse_up(words: list[str], served: EchoCluster) -> None:
    """As typed, up to the moment the cluster would start."""
    started = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_module, "up", lambda home, settings, say: started.append(settings) or 1 / 0)
        patch.setattr("raybatch.cli.up.has_gpu", lambda: True)
        patch.setattr(cluster_module, "up_foreground", lambda home, settings: started.append(settings))
        home = served.home.root / "elsewhere"
        CliRunner().invoke(app, ["--home", str(home), *words], env={"RAYBATCH_HOME": str(home)})
    assert started, f"raybatch {shlex.join(words)} did not come to start anything"


def _run_raybatch(words: list[str], served: EchoCluster, folder: Path) -> None:
    words = _with_batch(words, served)
    if "--watch" in words:
        _watch(words, served, folder)
    elif words[0] == "down":
        _run([*RAYBATCH, *words], served, folder)
        served.up()
    elif words[0] == "demo":
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0
    else:
        _run([*RAYBATCH, *words], served, folder)


def _run_ray(command: str, served: EchoCluster, folder: Path) -> None:
    """In a shell that was told where the cluster is, as the page says."""
    if not (folder / "questions.jsonl").exists():
        _run_raybatch(["demo-data", "--rows", "20", "-o", "questions.jsonl"], served, folder)
    command = " ".join(_with_batch(command.split(" "), served))
    _run(["bash", "-c", f'set -e; eval "$(raybatch env)"; {command}'], served, folder)


def _with_batch(words: list[str], served: EchoCluster) -> list[str]:
    return [_batch(words[0], served) if word == "BATCH" else word for word in words]


def _batch(command: str, served: EchoCluster) -> str:
    """The newest one that completed; for `cancel` one that still runs, for `failed` and `retry` one that has
    failed rows.
    """
    if command == "cancel":
        return _submitted(served, [(ROOT / "README.md").read_text().splitlines()[0]] * 20_000)
    if command == "failed":
        batch_id = _submitted(served, ["[[status=503 times=4]]", "hello"])
        until(lambda: _ended(served, batch_id), ENDED_MAX_S, f"{batch_id} has not ended")
        return batch_id
    known = served.get("/v1/batches")["data"]
    if command == "retry":
        return str(next(batch["id"] for batch in known if batch["request_counts"]["failed"]))
    return str(next(batch["id"] for batch in known if batch["status"] == "completed"))


def _submitted(served: EchoCluster, told: list[str]) -> str:
    upload = "".join(
        f'{{"custom_id":"{i}","method":"POST","url":"/v1/chat/completions","body":{{"model":"smollm2",'
        f'"messages":[{{"role":"user","content":"{text}"}}]}}}}\n'
        for i, text in enumerate(told)
    )
    answer = served.post("/v1/batches", files={"file": ("a.jsonl", upload)}, data={"model": "smollm2"})
    return str(answer["id"])


def _ended(served: EchoCluster, batch_id: str) -> bool:
    return bool(served.get(f"/v1/batches/{batch_id}")["status"] == "completed")


def _watch(words: list[str], served: EchoCluster, folder: Path) -> None:
    """It goes on until it is stopped; it must have shown something by then."""
    watching = subprocess.Popen(
        [*RAYBATCH, *words], cwd=folder, env=_environment(served), stdout=subprocess.PIPE, text=True
    )
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline()
        assert watching.poll() is None
    finally:
        watching.kill()
        watching.communicate()


def _run(command: list[str], served: EchoCluster, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=_environment(served), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _environment(served: EchoCluster) -> dict[str, str]:
    home = str(served.home.root)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ours = {"RAYBATCH_HOME": home, "RAYBATCH_URL": served.url, "PYTHONUNBUFFERED": "1", "PATH": path}
    return os.environ | ours
