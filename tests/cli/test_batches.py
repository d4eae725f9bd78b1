from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from raybatch.actors.connection import Connection
from raybatch.cli.progress import follow
from raybatch.config import Home
from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer, batch_json

BATCH = "/v1/batches/batch_1"


def test_watching_prints_plain_lines_into_a_pipe(raybatch: Run, server: FakeServer) -> None:
    server.answer("GET", BATCH, batch_json("validating"), batch_json("in_progress"), batch_json("completed"))
    result = raybatch("watch", "batch_1")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "batch_1 validating 4/4 rows",
        "batch_1 in_progress 4/4 rows · 2.0 rows/s · 250 tokens/s · 1 min 01 s left (at most 1 min 15 s)",
        "batch_1 completed 4/4 rows",
        "completed: 3 of 4 rows, 1 failed, 12,345 tokens generated in 23 s",
    ]


def test_watching_survives_a_server_that_restarts(raybatch: Run, server: FakeServer) -> None:
    restarting = [None, (503, {"error": {"message": "the scheduler is starting"}}), (502, b"bad gateway")]
    server.answer("GET", BATCH, batch_json("in_progress"), *restarting, batch_json("completed"))
    result = raybatch("watch", "batch_1")
    assert result.exit_code == 0
    assert result.stdout.count("trying again") == 1
    assert result.stdout.splitlines()[-1].startswith("completed: 3 of 4 rows")


def test_watching_an_unknown_batch_ends_at_once(raybatch: Run, server: FakeServer) -> None:
    server.answer("GET", BATCH, (404, {"error": {"message": "No batch found with id 'batch_1'."}}))
    result = raybatch("watch", "batch_1")
    assert (result.exit_code, result.stderr) == (1, "raybatch: No batch found with id 'batch_1'.\n")


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_a_batch_that_did_not_complete_ends_the_watch_with_1(
    raybatch: Run, server: FakeServer, status: str
) -> None:
    server.answer("GET", BATCH, batch_json(status))
    result = raybatch("watch", "batch_1", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"] == status


def test_a_terminal_gets_a_live_bar(
    raybatch: Run, server: FakeServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    server.answer("GET", BATCH, batch_json("in_progress"), batch_json("completed"))
    screen = Console(file=io.StringIO(), force_terminal=True, width=160)
    follow(Connection(home, server.url, None), "batch_1", screen)
    drawn = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "batch_1 completed" in drawn
    assert "4/4" in drawn


def test_results_are_fetched_whole_in_the_format_the_name_says(
    raybatch: Run, server: FakeServer, tmp_path: Path
) -> None:
    server.answer("GET", f"{BATCH}/results?format=parquet&kind=all", b"PAR1 and so on")
    server.answer("GET", f"{BATCH}/results?format=jsonl&kind=error", b'{"custom_id":"4"}\n')
    assert raybatch("results", "batch_1", "-o", str(tmp_path / "out.parquet")).exit_code == 0
    assert raybatch("results", "batch_1", "-o", str(tmp_path / "e.jsonl"), "--kind", "error").exit_code == 0
    assert (tmp_path / "out.parquet").read_bytes() == b"PAR1 and so on"
    assert (tmp_path / "e.jsonl").read_bytes() == b'{"custom_id":"4"}\n'


def test_results_go_to_standard_output_byte_for_byte(raybatch: Run, server: FakeServer) -> None:
    server.answer("GET", f"{BATCH}/results?format=jsonl&kind=all", '{"text":"é"}\n'.encode())
    result = raybatch("results", "batch_1", "-o", "-")
    assert result.stdout_bytes == '{"text":"é"}\n'.encode()


def test_a_download_that_breaks_off_leaves_the_older_file_and_nothing_else(
    raybatch: Run, server: FakeServer, tmp_path: Path
) -> None:
    out = tmp_path / "d" / "out.csv"
    out.parent.mkdir()
    out.write_bytes(b"older")
    server.answer("GET", f"{BATCH}/results?format=csv&kind=all", None)
    result = raybatch("results", "batch_1", "-o", str(out))
    assert result.exit_code == 1
    assert f"{server.url} broke off" in result.stderr
    assert [(path.name, path.read_bytes()) for path in out.parent.iterdir()] == [("out.csv", b"older")]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-o", "out.xlsx"], ".parquet"),
        (["-o", "/nowhere/out.csv"], "/nowhere/out.csv"),
    ],
)
def test_a_result_file_that_cannot_be_is_refused_with_what_can(
    raybatch: Run, server: FakeServer, words: list[str], named: str
) -> None:
    server.answer("GET", f"{BATCH}/results?format=csv&kind=all", b"index\n")
    result = raybatch("results", "batch_1", *words)
    assert result.exit_code == 1
    assert named in result.stderr


def test_cancel_says_how_the_batch_stands(raybatch: Run, server: FakeServer) -> None:
    refusal = {"error": {"message": "Cannot cancel a batch with status 'completed'."}}
    server.answer("POST", f"{BATCH}/cancel", batch_json("cancelling"), (409, refusal))
    assert raybatch("cancel", "batch_1").stdout == "batch_1 cancelling\n"
    second = raybatch("cancel", "batch_1")
    assert (second.exit_code, second.stderr) == (1, f"raybatch: {refusal['error']['message']}\n")


LETTERS = [
    {
        "index": index,
        "custom_id": f"r{index}",
        "error_type": kind,
        "error_code": "nope",
        "error_message": "why\nnot",
        "status_code": 400,
        "attempts": 1,
        "first_at": 1_000.0,
        "last_at": 1_002.5,
    }
    for index, kind in ((1, "bad_prompt"), (4, "engine_crash"), (7, "engine_crash"))
]


def test_failed_requests_are_counted_by_type_and_shown(raybatch: Run, server: FakeServer) -> None:
    lines = b"".join(json.dumps(letter).encode() + b"\n" for letter in LETTERS)
    server.answer("GET", f"{BATCH}/failed?format=jsonl", lines, lines, b"")
    server.answer("GET", f"{BATCH}/failed?format=jsonl&error_type=a&error_type=b", b"")
    shown = raybatch("failed", "batch_1", "--limit", "2").stdout
    counted, rows = shown.split("\n\n")
    assert [line.split()[:2] for line in counted.splitlines()[1:]] == [
        ["engine_crash", "2"],
        ["bad_prompt", "1"],
    ]
    assert "r1" in rows
    assert "why not" in rows
    assert "r7" not in rows
    assert "the first 2 of 3" in rows
    as_json = json.loads(raybatch("failed", "batch_1", "--json").stdout)
    assert as_json == {"error_types": {"engine_crash": 2, "bad_prompt": 1}, "data": LETTERS}
    assert raybatch("failed", "batch_1").stdout == "no request failed\n"
    assert raybatch("failed", "batch_1", "--type", "a", "--type", "b").stdout == "no request failed\n"


def test_a_retry_says_how_many_run_again_and_can_be_waited_for(raybatch: Run, server: FakeServer) -> None:
    server.answer("POST", f"{BATCH}/retry", batch_json("in_progress"))
    server.answer("GET", BATCH, batch_json("in_progress"), batch_json("completed"))
    assert raybatch("retry", "batch_1").stdout == "batch_1 in_progress: 0 requests run again\n"
    done = raybatch("retry", "batch_1", "--type", "a", "--id", "r1", "--id", "r4", "--wait")
    assert done.exit_code == 0
    assert "completed: 3 of 4 rows" in done.stderr
    assert [json.loads(body) for body in server.bodies("POST", f"{BATCH}/retry")] == [
        {},
        {"error_types": ["a"], "custom_ids": ["r1", "r4"]},
    ]


def test_one_batch_or_everything_is_paused_and_resumed(raybatch: Run, server: FakeServer) -> None:
    paused = batch_json("in_progress", raybatch={"paused": True})
    server.answer("POST", f"{BATCH}/pause", paused)
    server.answer("POST", f"{BATCH}/resume", batch_json("in_progress"), paused)
    server.answer("POST", "/admin/pause", {"paused": True})
    assert raybatch("pause", "batch_1").stdout == "batch_1 paused\n"
    assert raybatch("resume", "batch_1").stdout == "batch_1 in_progress\n"
    still = raybatch("resume", "batch_1")
    assert "everything is paused" in still.stderr
    assert raybatch("pause").stdout == "everything is paused\n"
    assert raybatch("resume").stdout == "everything goes on\n"
    assert [json.loads(body) for body in server.bodies("POST", "/admin/pause")] == [
        {"on": True},
        {"on": False},
    ]


def test_a_paused_batch_shows_no_pace(raybatch: Run, server: FakeServer) -> None:
    paused = batch_json("in_progress", raybatch={"paused": True, "rows_per_s": 0.0, "eta": None})
    server.answer("GET", BATCH, paused, batch_json("completed"))
    assert raybatch("watch", "batch_1").stdout.splitlines()[0] == "batch_1 in_progress 4/4 rows · paused"


def test_batches_are_listed_with_the_way_to_the_older_ones(raybatch: Run, server: FakeServer) -> None:
    page = {"object": "list", "data": [batch_json()], "last_id": "batch_1", "has_more": True}
    server.answer("GET", "/v1/batches?limit=1", page)
    server.answer("GET", "/v1/batches?limit=20&after=batch_1", page | {"data": [], "has_more": False})
    shown = raybatch("batches", "--limit", "1").stdout
    assert "batch_1" in shown
    assert "completed" in shown
    assert "--after batch_1" in shown
    assert json.loads(raybatch("batches", "--limit", "1", "--json").stdout) == page
    assert "--after" not in raybatch("batches", "--after", "batch_1").stdout
