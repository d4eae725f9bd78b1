from __future__ import annotations

import os
import signal
from collections.abc import Callable

import msgspec
import psutil
import pytest

from raybatch.actors import cluster
from raybatch.actors.cluster_facts import ClusterFacts, write_facts
from raybatch.actors.reads import BatchRows
from raybatch.cli.demo import Score
from raybatch.cli.demo_questions import questions
from raybatch.config import PACKAGED_MODEL, Home, Settings
from raybatch.core.model import Batch, ResultRow
from raybatch.engine import packaged_model
from raybatch.errors import OperatorError
from raybatch.storage.parts import write_part
from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer, batch_json, engine_json, overview_json
from tests.cli.test_submit import FILE

ROWS = 24
Answering = Callable[[str], str]


class FakeCluster:
    """Serves the fake server's answers while it is up."""

    def __init__(self, home: Home, server: FakeServer) -> None:
        self.home, self.server = home, server
        self.moves: list[str] = []
        self.on_up: Callable[[], None] = lambda: None

    def up(self, home: Home, settings: Settings, say: Callable[[str], None]) -> ClusterFacts:
        self.moves.append("up")
        home.save(settings)
        self.on_up()
        facts = ClusterFacts(str(home.root), "c1", "ready", "", 1, self.server.url, None, "", "", 0.0)
        write_facts(home, facts)
        return facts

    def down(self, home: Home, now: bool, say: Callable[[str], None]) -> bool:
        self.moves.append("down")
        return True


@pytest.fixture
def fake(raybatch: Run, home: Home, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    fake = FakeCluster(home, server)
    monkeypatch.setattr(cluster, "up", fake.up)
    monkeypatch.setattr(cluster, "down", fake.down)
    monkeypatch.setattr(packaged_model, "prepare_packaged_model", lambda models_dir: models_dir / "ready")
    monkeypatch.setattr("raybatch.actors.cluster_facts.running", lambda home: "up" in fake.moves or None)
    server.answer("GET", "/admin/overview", overview_json(engine_json()))
    server.answer("POST", "/v1/files", FILE)
    server.answer("POST", "/v1/batches", batch_json("validating"))
    return fake


def answer_all(fake: FakeCluster, answer: Answering, rows: int = ROWS) -> None:
    """A batch whose ``rows`` results are on disk; ``answer`` is given what was expected."""
    lines = list(questions(ROWS, PACKAGED_MODEL.id))
    fake.home.files.mkdir(parents=True, exist_ok=True)
    (fake.home.files / "file-1").write_bytes(b"".join(line + b"\n" for line in lines))
    expected = [msgspec.json.decode(line)["body"]["metadata"]["answer"] for line in lines]
    results = [_row(index, answer(expected[index])) for index in range(rows)]
    part = write_part(fake.home.root, "batch_1", "part1", results)
    batch = Batch("batch_1", "default", "file-1", "/v1/chat/completions", "24h", 86_400.0, 1_000.0)
    counts = {"total": ROWS, "completed": rows, "failed": ROWS - rows}
    ended = batch_json(output_file_id="file-2", request_counts=counts)
    fake.server.answer("GET", "/v1/batches/batch_1", ended)
    fake.server.answer("GET", "/v1/files/file-2/content", b"{}\n" * rows)
    manifest = list(msgspec.to_builtins((BatchRows(batch, (part,)),)))
    fake.server.answer("GET", "/admin/manifest", manifest)
    fake.server.answer("GET", "/admin/log", [])


def _row(index: int, text: str) -> ResultRow:
    named = (index, index, str(index), 200, None, None, "m", text, "stop", 5, 1, 0, b"{}", 1, "e")
    return ResultRow(*named, 1_001.0, 1_002.0)


def test_right_answers_end_in_ok_and_everything_is_stopped(raybatch: Run, fake: FakeCluster) -> None:
    answer_all(fake, lambda expected: f"It is {expected}.")
    result = raybatch("demo", "--rows", str(ROWS))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith(f"demo: OK rows={ROWS} score=1.0 permuted=0.0")
    assert "FROM results" in result.stdout
    assert str(fake.home.root / "results" / "batch_id=batch_1") in result.stdout
    assert fake.moves == ["up", "down"]
    assert fake.home.load().models == (PACKAGED_MODEL,)


@pytest.mark.parametrize("rows", [ROWS, ROWS - 1], ids=["wrong answers", "a missing row"])
def test_wrong_answers_or_missing_rows_end_in_failed(raybatch: Run, fake: FakeCluster, rows: int) -> None:
    answer_all(fake, (lambda expected: expected) if rows < ROWS else (lambda _: "yes"), rows)
    result = raybatch("demo", "--rows", str(ROWS))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith(f"demo: FAILED rows={rows}")
    assert fake.moves == ["up", "down"]


def test_a_start_that_fails_is_cleaned_up_and_said(raybatch: Run, fake: FakeCluster) -> None:
    def refuse() -> None:
        raise OperatorError("port 8420 is taken by pid 7")

    fake.on_up = refuse
    result = raybatch("demo")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "demo: FAILED port 8420 is taken by pid 7"
    assert fake.moves == ["up", "down"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_what_was_started(raybatch: Run, fake: FakeCluster, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    fake.on_up = lambda: os.kill(os.getpid(), number)
    result = raybatch("demo")
    assert result.exit_code == 128 + number
    assert fake.moves == ["up", "down"]
    assert signal.getsignal(number) is before


def test_a_home_with_settings_of_its_own_is_left_alone(raybatch: Run, fake: FakeCluster, home: Home) -> None:
    home.save(Settings())
    result = raybatch("demo")
    assert result.exit_code == 1
    assert "--home" in result.stdout
    assert fake.moves == []
    assert home.load() == Settings()


def test_a_demo_that_runs_already_is_left_alone(
    raybatch: Run, home: Home, running: ClusterFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.root / "demo").write_text(f"{os.getpid()} {psutil.Process().create_time()}")
    monkeypatch.setattr(cluster, "down", lambda *_: pytest.fail("stopped another demo"))
    result = raybatch("demo")
    assert result.exit_code == 1
    assert str(running.supervisor_pid) in result.stdout


def test_what_a_dead_demo_left_running_is_stopped_first(raybatch: Run, fake: FakeCluster, home: Home) -> None:
    (home.root / "demo").write_text("999999999 1.0")
    fake.moves.append("up")  # by the dead one
    answer_all(fake, lambda expected: expected)
    result = raybatch("demo", "--rows", str(ROWS))
    assert result.exit_code == 0, result.stdout
    assert fake.moves == ["up", "down", "up", "down"]


@pytest.mark.parametrize(
    ("score", "permuted", "telling"),
    [(0.9, 0.1, True), (0.75, 0.25, True), (0.2, 0.1, False), (0.0, 0.0, False)],
)
def test_answers_must_fit_their_own_question_three_times_better_than_others(
    score: float, permuted: float, telling: bool
) -> None:
    assert Score(10, score, permuted).telling is telling
