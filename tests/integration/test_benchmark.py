"""The benchmarks from end to end, small: what they report has the shape it promises. No time is looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs import large, parity
from jobs.arms import NEEDS_OF_RAY_DATA, RAY_DATA
from jobs.benchmark import app
from jobs.memory import ROLES
from jobs.starts import KINDS

CACHE = Path(__file__).resolve().parents[2] / ".cache"
PNG = b"\x89PNG\r\n\x1a\n"
ROWS = 6


@pytest.mark.vllm
@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("peer", parity.PEERS)
def test_parity_runs_both_arms_over_the_same_tokens(peer: str, tmp_path: Path) -> None:
    if peer == RAY_DATA and not NEEDS_OF_RAY_DATA.is_dir():
        pytest.skip("run `bash requirements/queues.sh` first")
    asked = ["parity", f"--rows={ROWS}", "--rounds=1", f"--cache={CACHE}", "--set=vllm.max_num_seqs=8"]
    report, shown = _run([*asked, f"--peer={peer}"], tmp_path)

    runs = report["runs"]
    assert [run["arm"] for run in runs] == ["batch", peer, peer, "batch"]
    assert [run["seed"] for run in runs] == [0, 0, 1, 1]
    assert {run["rows"] for run in runs} == {ROWS}
    for batch, peer in ((runs[0], runs[1]), (runs[3], runs[2])):
        for kind in ("prompt_tokens", "completion_tokens"):
            assert batch[kind] == peer[kind] > 0
        assert sum(batch["phases_s"].values()) == pytest.approx(batch["wall_s"])
        assert sum(tokens for _, tokens in peer["finishes"]) == peer["completion_tokens"]
    assert report["ratio"].keys() == {"wall", "steady"}
    assert "where the time goes" in shown


@pytest.mark.vllm
@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")
def test_starts_tells_how_soon_there_is_a_token_after_each_kind_of_start(tmp_path: Path) -> None:
    report, _ = _run(["starts", "--rounds=1", f"--cache={CACHE}"], tmp_path)

    assert [run["kind"] for run in report["runs"]] == list(KINDS)
    assert [run["api_s"] is None for run in report["runs"]] == [False, True, False]
    assert all(run["first_token_s"] > (run["api_s"] or 0.0) for run in report["runs"])


@pytest.mark.vllm
@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")
def test_prefixes_runs_every_arm_over_the_same_rows(tmp_path: Path) -> None:
    sizes = ["--prefixes=3", "--rows=3", "--prefix-words=70", "--kv-tokens=1024", "--at-once=4"]
    report, shown = _run(["prefixes", *sizes, "--rounds=1", f"--cache={CACHE}"], tmp_path)

    runs = {run["arm"]: run for run in report["runs"]}
    names = ["raybatch", "raybatch, file order", "LLM.generate, file order", "LLM.generate, sorted"]
    assert list(runs) == names
    for kind in ("seed", "rows", "prompt_tokens", "completion_tokens"):
        assert len({run[kind] for run in runs.values()}) == 1
    assert runs["LLM.generate, sorted"]["rows"] == 9
    assert runs["LLM.generate, sorted"]["cached_share"] > 0
    assert len(report["ratio"]) == 8
    assert "prompt tokens cached" in shown


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")
def test_blend_runs_the_same_rows_in_three_orders(tmp_path: Path) -> None:
    sizes = ["--rows=3", "--prompt-words=40", "--answer-tokens=16"]
    report, shown = _run(["blend", *sizes, "--rounds=1", f"--cache={CACHE}"], tmp_path)

    assert [run["arm"] for run in report["runs"]] == ["long prompts first", "mixed", "long answers first"]
    assert {run["completion_tokens"] for run in report["runs"]} == {3 * (8 + 16)}
    assert len(report["ratio"]) == 2
    assert "blend" in shown


@pytest.mark.long
@pytest.mark.cluster
def test_sharing_reports_each_round_with_every_answer_checked(tmp_path: Path) -> None:
    asked = ["sharing", "--small-rows=20", "--large-rows=600", "--rows-per-s=300", "--rounds=2"]
    report, shown = _run(asked, tmp_path)

    assert [run["number"] for run in report["runs"]] == [0, 1]
    assert {(run["small_rows"], run["large_rows"]) for run in report["runs"]} == {(20, 600)}
    for run in report["runs"]:
        assert run["slowdown"] == pytest.approx(run["small_beside_s"] / run["small_alone_s"])
        assert run["both_s"] >= run["small_beside_s"]
        assert run["fifo_s"] >= run["small_behind_s"]
    assert "fair sharing" in shown


@pytest.mark.long
@pytest.mark.cluster
def test_control_tells_each_stage_of_rows_that_cost_nothing(tmp_path: Path) -> None:
    asked = ["control", "--arms=raybatch", "--rows=300", "--rounds=1"]
    report, shown = _run(asked, tmp_path)

    (run,) = report["runs"]
    assert (run["arm"], run["rows"]) == ("raybatch", 300)
    assert list(run["stages_s"]) == ["accepted", "taken in", "committed", "downloaded"]
    assert run["rows_per_s"] == pytest.approx(300 / run["stages_s"]["downloaded"])
    assert "control plane" in shown


def test_tail_tells_each_arm_of_each_scenario(tmp_path: Path) -> None:
    asked = ["tail", "--engines=2", "--rows=300", "--seeds=2", "--concurrency=8"]
    report, shown = _run(asked, tmp_path)

    assert report["arms"].keys() == {"even", "kinds", "uneven"}
    assert all(0 < run["efficiency"] <= 1 for run in report["runs"])
    assert "in virtual time" in shown


@pytest.mark.long
@pytest.mark.cluster
def test_barriers_runs_every_arm_over_the_same_rows(tmp_path: Path) -> None:
    asked = ["barriers", "--batches=3", "--rows=20", "--concurrency=16", "--alpha-ms=2", "--rounds=1"]
    report, shown = _run(asked, tmp_path)

    arms = [run["arm"] for run in report["runs"]]
    assert arms == ["batches together", "one batch", "chunk by chunk", "engine alone"]
    assert len({run["ideal_s"] for run in report["runs"]}) == 1
    assert all(0 < run["occupancy"] <= 1 for run in report["runs"][:2])
    assert "barriers" in shown


@pytest.mark.long
@pytest.mark.cluster
def test_pollers_are_answered_while_a_batch_runs(tmp_path: Path) -> None:
    asked = ["pollers", "--clients=20", "--every=0.5", "--rows=600", "--rows-per-s=200", "--rounds=1"]
    report, shown = _run(asked, tmp_path)

    assert [len(run["latencies_ms"]) > 0 for run in report["runs"]] == [False, True, True, False]
    assert report["arms"]["failed"] == 0
    assert "while clients ask" in shown


def test_each_benchmark_says_what_it_measures() -> None:
    for command, words in (("parity", "LLM.generate"), ("sharing", "alone"), ("control", "Celery")):
        told = CliRunner().invoke(app, [command, "--help"])
        assert told.exit_code == 0
        assert words in told.output


def _run(asked: list[str], folder: Path) -> tuple[dict[str, Any], str]:
    json_path, plot_path = folder / "figures.json", folder / "figures.png"
    ended = CliRunner().invoke(app, [*asked, f"--json={json_path}", f"--plot={plot_path}"])
    assert ended.exit_code == 0, ended.output
    assert plot_path.read_bytes().startswith(PNG)
    report: dict[str, Any] = json.loads(json_path.read_text())
    assert {"metric", "runs"} <= report.keys()
    for told in report.get("ratio", {}).values():
        assert 0 < told["low"] <= told["median"] <= told["high"]
    return report, ended.output


@pytest.mark.long
@pytest.mark.cluster
def test_large_tells_what_each_process_holds_while_one_batch_runs(tmp_path: Path) -> None:
    picture, written = tmp_path / "large.png", tmp_path / "large.json"
    large.main(rows=3_000, json_path=written, plot_path=picture)

    courses = json.loads(written.read_text())["courses"]
    assert [course["name"] for course in courses] == list(large.COURSES)
    for course in courses:
        assert course["progress"][-1][1] == course["rows"] == 3_000
        assert course["levels"].keys() == set(ROLES)
        assert course["levels"]["engine"]["peak"] > 0
    assert picture.read_bytes().startswith(PNG)
