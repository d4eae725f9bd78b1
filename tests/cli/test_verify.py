"""`raybatch verify` believes nobody: each kind of damage is seeded and must be seen."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import raybatch.verify
from raybatch.verify.checker import check
from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer, batch_json

Json = dict[str, Any]


class Served:
    """A clean batch of four behind the API, before something is done to it."""

    def __init__(self) -> None:
        asked = ("a", "b", "c", "d")
        self.upload: list[Json] = [{"custom_id": custom_id, "body": {"n": 1}} for custom_id in asked]
        self.output = [_answered(custom_id) for custom_id in ("a", "c", "d")]
        refused = {"status_code": 400, "body": {"error": {"message": "no"}}}
        self.error: list[Json] = [{"id": "row-b", "custom_id": "b", "response": refused, "error": None}]
        usage = {"input_tokens": 9, "output_tokens": 6}
        self.batch = batch_json(output_file_id="file-o", error_file_id="file-e", usage=usage)

    def put(self, server: FakeServer) -> None:
        server.answer("GET", "/v1/batches/batch_1", self.batch)
        for file_id, rows in (("file-1", self.upload), ("file-o", self.output), ("file-e", self.error)):
            content = _jsonl(rows)
            server.answer("GET", f"/v1/files/{file_id}", {"id": file_id, "bytes": len(content)})
            server.answer("GET", f"/v1/files/{file_id}/content", content)


@pytest.fixture
def served() -> Served:
    return Served()


def test_a_whole_batch_is_clean(raybatch: Run, server: FakeServer, served: Served) -> None:
    served.put(server)
    done = raybatch("verify", "batch_1")
    assert (done.exit_code, done.stdout) == (
        0,
        "batch_1 completed: 4 requests, nothing lost, nothing twice, nothing unexpected\n",
    )


def _lose(served: Served) -> None:
    del served.output[1]
    served.batch["request_counts"] = {"total": 4, "completed": 2, "failed": 1}
    served.batch["usage"] = {"input_tokens": 6, "output_tokens": 4}


def _double(served: Served) -> None:
    served.output.insert(1, served.output[0] | {"id": "row-z"})


def _double_in_the_other_file(served: Served) -> None:
    served.error.insert(0, served.error[0] | {"id": "row-z", "custom_id": "a"})


def _stranger(served: Served) -> None:
    served.output[1]["custom_id"] = "z"


def _disorder(served: Served) -> None:
    served.output.reverse()


def _same_row_id(served: Served) -> None:
    served.output[1]["id"] = served.output[0]["id"]


def _success_among_errors(served: Served) -> None:
    served.error[0]["response"]["status_code"] = 200


def _failure_among_answers(served: Served) -> None:
    served.output[0]["response"]["status_code"] = 500


def _silent_failure(served: Served) -> None:
    served.error[0]["response"]["body"] = {}


def _unanswered_without_a_reason(served: Served) -> None:
    served.error[0] |= {"response": None, "error": None}


def _miscounted(served: Served) -> None:
    served.batch["request_counts"]["completed"] = 4


def _usage_twice(served: Served) -> None:
    served.batch["usage"]["output_tokens"] *= 2


def _file_unnamed(served: Served) -> None:
    served.batch["error_file_id"] = None


@pytest.mark.parametrize(
    ("damage", "counter"),
    [
        (_lose, "lost"),
        (_double, "duplicated"),
        (_double_in_the_other_file, "duplicated"),
        (_stranger, "unexpected"),
        (_disorder, "unexpected"),
        (_same_row_id, "unexpected"),
        (_success_among_errors, "unexpected"),
        (_failure_among_answers, "unexpected"),
        (_silent_failure, "unexpected"),
        (_unanswered_without_a_reason, "unexpected"),
        (_miscounted, "unexpected"),
        (_usage_twice, "unexpected"),
        (_file_unnamed, "unexpected"),
    ],
)
def test_damage_is_counted_named_and_ends_with_1(
    raybatch: Run, server: FakeServer, served: Served, damage: Callable[[Served], None], counter: str
) -> None:
    damage(served)
    served.put(server)
    done = raybatch("verify", "batch_1", "--json")
    (told,) = json.loads(done.stdout)["batches"]
    assert done.exit_code == 1
    assert told[counter] >= 1
    assert told["faults"]


def test_the_first_lost_rows_are_named_by_their_line(
    raybatch: Run, server: FakeServer, served: Served
) -> None:
    _lose(served)
    served.put(server)
    done = raybatch("verify", "batch_1")
    assert "1 lost, 0 duplicated, 1 unexpected" in done.stdout
    assert "  line 3 of the input has no answer\n" in done.stdout


def test_a_file_shorter_than_it_says_is_unexpected(raybatch: Run, server: FakeServer, served: Served) -> None:
    served.put(server)
    server.answer("GET", "/v1/files/file-e", {"id": "file-e", "bytes": 1})
    done = raybatch("verify", "batch_1")
    assert done.exit_code == 1
    assert "file-e says it has 1 bytes" in done.stdout


def test_deleted_files_are_no_fault_and_their_rows_are_found_elsewhere(
    raybatch: Run, server: FakeServer, served: Served
) -> None:
    served.put(server)
    gone = 404, {"error": {"message": "No such File object"}}
    server.answer("GET", "/v1/files/file-1", gone)
    server.answer("GET", "/v1/files/file-o", gone)
    server.answer("GET", "/v1/batches/batch_1/results?kind=output", _jsonl(served.output))
    done = raybatch("verify", "batch_1", "--json")
    (told,) = json.loads(done.stdout)["batches"]
    assert (done.exit_code, told["unexpected"], len(told["notes"])) == (0, 0, 2)


def test_all_means_every_page_and_what_runs_is_not_judged(
    raybatch: Run, server: FakeServer, served: Served
) -> None:
    served.put(server)
    running = batch_json("in_progress", id="batch_2")
    failed = batch_json("failed", id="batch_3", errors={"data": [{"code": "invalid_json_line"}]})
    server.answer("GET", "/v1/batches/batch_3", failed)
    server.answer("GET", "/v1/batches/batch_2", running)
    first = {"data": [running, failed], "has_more": True, "last_id": "batch_3"}
    server.answer("GET", "/v1/batches?limit=100", first)
    server.answer("GET", "/v1/batches?limit=100&after=batch_3", {"data": [served.batch], "has_more": False})
    done = raybatch("verify", "--all", "--json")
    told = json.loads(done.stdout)["batches"]
    assert done.exit_code == 0
    assert [(one["id"], one["checked"]) for one in told] == [
        ("batch_2", False),
        ("batch_3", True),
        ("batch_1", True),
    ]


def test_a_batch_retried_meanwhile_is_looked_at_again(
    raybatch: Run, server: FakeServer, served: Served
) -> None:
    served.put(server)
    old = served.batch | {"error_file_id": "file-x", "output_file_id": "file-y"}
    for file_id in ("file-x", "file-y"):
        server.answer("GET", f"/v1/files/{file_id}", {"id": file_id, "bytes": 0})
        server.answer("GET", f"/v1/files/{file_id}/content", b"")
    server.answer("GET", "/v1/batches/batch_1", old, served.batch)
    assert raybatch("verify", "batch_1").exit_code == 0


@pytest.mark.parametrize("words", [(), ("batch_1", "--all")])
def test_it_wants_one_batch_or_all(raybatch: Run, words: tuple[str, ...]) -> None:
    done = raybatch("verify", *words)
    assert (done.exit_code, "--all" in done.stderr) == (1, True)


@pytest.mark.parametrize("cut", [1, 7, 64, 10_000])
def test_blocks_may_be_cut_anywhere_and_blank_lines_say_nothing(served: Served, cut: int) -> None:
    files = [_jsonl(rows) for rows in (served.upload, served.output, served.error)]
    files[0] = b"\xef\xbb\xbf" + files[0].replace(b"\n", b"\r\n\n  \n").rstrip()
    upload, output, error = ([content[i : i + cut] for i in range(0, len(content), cut)] for content in files)
    assert check(served.batch, upload, output, error).faults == []


def test_custom_ids_may_be_any_text_absent_or_repeated_as_lenient_servers_allow() -> None:
    custom_ids = ["\ud800", "", "é" * 1000, None, "twice", "twice"]
    upload = _jsonl([{"custom_id": custom_id} for custom_id in custom_ids]) + b"not json\n"
    answers = [_answered(custom_id) | {"id": str(n)} for n, custom_id in enumerate([*custom_ids, None])]
    batch = batch_json(
        request_counts={"total": 7, "completed": 7, "failed": 0},
        output_file_id="file-o",
        usage={"input_tokens": 21, "output_tokens": 14},
    )
    assert check(batch, [upload], [_jsonl(answers)], []).faults == []
    verdict = check(batch, [upload], [_jsonl(answers[:-2])], [])
    assert verdict.lost == 2


def test_the_checker_shares_no_code_with_what_it_judges() -> None:
    for path in Path(raybatch.verify.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            strange = [name for name in names if name.startswith(("raybatch", "serve_app", "jobs"))]
            assert all(name.startswith("raybatch.verify") for name in strange), (path, strange)


def _answered(custom_id: str | None) -> Json:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    response = {"status_code": 200, "body": {"usage": usage}}
    return {"id": f"row-{custom_id}", "custom_id": custom_id, "response": response, "error": None}


def _jsonl(rows: list[Json]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
