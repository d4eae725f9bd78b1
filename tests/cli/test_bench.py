"""`raybatch bench`: the shape it asks for, what it makes of what it saw, and that nothing runs on."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from raybatch.actors import cluster
from raybatch.actors.cluster_facts import ProcessFacts
from raybatch.actors.reads import BatchRows
from raybatch.cli.bench import told
from raybatch.cli.bench_figures import Figures, Finish, Sample
from raybatch.cli.bench_rows import Shape, lines
from raybatch.config import Home
from raybatch.core.model import Batch, ResultRow
from raybatch.storage.parts import write_part
from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer, batch_json, engine_json, gpu_json, overview_json
from tests.cli.test_demo import FakeCluster
from tests.cli.test_submit import FILE

PNG = b"\x89PNG\r\n\x1a\n"


def test_rows_have_the_shape_asked_for_and_differ() -> None:
    asked = [json.loads(line)["body"] for line in lines(Shape(200, 40, 20), "m")]

    assert len({body["prompt"] for body in asked}) == 200
    assert {body["model"] for body in asked} == {"m"}
    lengths = [body["max_tokens"] for body in asked]
    assert 10 <= min(lengths) < 20 < max(lengths) <= 30
    assert all(body["ignore_eos"] for body in asked)


def test_one_shape_is_always_the_same_rows() -> None:
    assert list(lines(Shape(5, 10, 10), "m")) == list(lines(Shape(5, 10, 10), "m"))


def test_a_large_batch_is_drawn_out_from_the_steady_middle() -> None:
    """Ten rows one after the other, a second each; the first and the last take far longer."""
    ends_s = [10.0, *(10.0 + number for number in range(1, 9)), 48.0]
    figures = Figures(tuple(Finish(began_s, end_s, 5, 10) for began_s, end_s in pairwise([0.0, *ends_s])), ())

    assert figures.steady_tokens_per_s == pytest.approx(10.0)
    assert figures.tokens_per_s == pytest.approx(100 / 48)
    assert figures.seconds_for(1_000) == pytest.approx(1_000.0)


def test_rows_that_end_together_did_not_run_in_no_time() -> None:
    figures = Figures((Finish(0.0, 2.0, 5, 10), Finish(0.0, 2.0, 5, 10)), ())
    assert figures.steady_tokens_per_s == pytest.approx(10.0)
    assert figures.tokens_per_s == pytest.approx(10.0)


def test_tokens_over_time_are_all_tokens() -> None:
    figures = Figures(tuple(Finish(0.1 * number, 0.3 * number, 5, number) for number in range(1, 20)), ())
    binned = figures.rate_over_time()
    width_s = binned[0][0]
    assert sum(rate * width_s for _, rate in binned) == pytest.approx(figures.completion_tokens)


def test_heat_and_joules_are_told_where_a_card_tells_them() -> None:
    finishes = (Finish(0.0, 1.0, 5, 100), Finish(1.0, 2.0, 5, 100))
    looks = (Sample(0.0, {"engine": 5}, 1 << 30, 50, 40.0), Sample(1.0, {"engine": 9}, 2 << 30, 70, 60.0))

    words = dict(told(Figures(finishes, looks)))
    assert words["hottest GPU"] == "50 °C at first, 70 °C at most"
    assert words["output tokens per joule"] == "2.00"
    assert "hottest GPU" not in dict(told(Figures(finishes, (Sample(0.0, {"engine": 5}),))))


def test_it_measures_draws_and_stops_what_it_started(
    raybatch: Run, home: Home, server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeCluster(home, server)
    monkeypatch.setattr(cluster, "up", fake.up)
    monkeypatch.setattr(cluster, "down", fake.down)
    monkeypatch.setattr("raybatch.actors.cluster_facts.running", lambda home: "up" in fake.moves or None)
    seen = [ProcessFacts(1, "engine", 3 << 30, 0.0, ""), ProcessFacts(2, "dashboard", 1 << 30, 0.0, "")]
    monkeypatch.setattr("raybatch.actors.cluster_facts.processes", lambda home: seen)
    overview = overview_json(engine_json(gpus=[gpu_json()]))
    server.answer("GET", "/admin/overview", overview)
    server.answer("POST", "/v1/files", FILE)
    server.answer("POST", "/v1/batches", batch_json("validating"))
    server.answer("GET", "/v1/batches/batch_1", batch_json())
    named = [(index, index, str(index), 200, None, None, "m", "x", "stop", 5, 4) for index in range(8)]
    rows = [ResultRow(*row, 0, b"{}", 1, "e", 1_000.0, 1_001.0 + row[0]) for row in named]
    part = write_part(home.root, "batch_1", "part1", rows)
    batch = Batch("batch_1", "default", "file-1", "/v1/completions", "24h", 86_400.0, 1_000.0)
    server.answer("GET", "/admin/manifest", list(msgspec.to_builtins((BatchRows(batch, (part,)),))))
    server.answer("GET", "/admin/log", [])
    picture = tmp_path / "bench.png"

    result = raybatch("bench", "m", "--rows", "8", "--engine", "echo", "--plot", str(picture))

    assert result.exit_code == 0, result.output
    assert "8, 5 tokens in and 4 out on average" in result.stdout
    assert "200,000 rows of this shape" in result.stdout
    assert "hottest GPU" in result.stdout
    assert "memory of engine" in result.stdout
    assert "dashboard" not in result.stdout
    assert picture.read_bytes().startswith(PNG)
    assert fake.moves == ["up", "down"]
