from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from raybatch.actors import submission
from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer, batch_json

FILE = {
    "id": "file-1",
    "object": "file",
    "bytes": 1,
    "created_at": 1,
    "filename": "in.jsonl",
    "purpose": "batch",
    "status": "processed",
}
UPLOAD = {
    "id": "upload_1",
    "object": "upload",
    "bytes": 1,
    "created_at": 1,
    "filename": "in.jsonl",
    "purpose": "batch",
    "status": "pending",
    "expires_at": 3601,
    "file": None,
}
ERRORS = {
    "object": "list",
    "data": [
        {"code": "invalid_json_line", "message": "This line is not parseable.", "param": None, "line": 3},
        {"code": "invalid_url", "message": "The URL does not match.", "param": "url", "line": 7},
    ],
}


def request(number: int, url: str = "/v1/completions") -> bytes:
    body = {"model": "org/small", "prompt": "p"}
    line = {"custom_id": str(number), "method": "POST", "url": url, "body": body}
    return json.dumps(line).encode() + b"\n"


def part_json(number: int) -> dict[str, object]:
    return {"id": f"part_{number}", "object": "upload.part", "created_at": 1, "upload_id": "upload_1"}


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n" + request(1) + request(2))
    return path


@pytest.fixture(autouse=True)
def accepting(server: FakeServer) -> None:
    server.answer("POST", "/v1/files", FILE)
    server.answer("POST", "/v1/batches", batch_json("validating"))
    server.answer("GET", "/v1/batches/batch_1", batch_json("validating"), batch_json("in_progress"))


def test_a_file_is_uploaded_and_created_under_its_first_lines_endpoint(
    raybatch: Run, server: FakeServer, requests: Path
) -> None:
    result = raybatch(
        "submit", str(requests), "--metadata", "run=7", "--metadata", "by=a=b", "--priority", "5"
    )
    assert (result.exit_code, result.stdout) == (0, "batch_1\n")
    (uploaded,) = server.bodies("POST", "/v1/files")
    assert requests.read_bytes() in uploaded
    (created,) = server.bodies("POST", "/v1/batches")
    assert json.loads(created) == {
        "input_file_id": "file-1",
        "endpoint": "/v1/completions",
        "completion_window": "24h",
        "metadata": {"run": "7", "by": "a=b"},
        "priority": 5,
    }


@pytest.mark.parametrize("validation", ["relaxed", "strict"])
def test_how_bad_lines_are_taken_is_asked_for_by_name(
    raybatch: Run, server: FakeServer, requests: Path, validation: str
) -> None:
    assert raybatch("submit", str(requests), f"--{validation}").exit_code == 0
    (created,) = server.bodies("POST", "/v1/batches")
    assert json.loads(created)["validation"] == validation


def test_a_large_file_goes_in_parts_and_tells_how_far_it_has_come(
    raybatch: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "WHOLE_BYTES_MAX", 99)
    monkeypatch.setattr(submission, "PART_BYTES", 80)
    large = tmp_path / "large.jsonl"
    large.write_bytes(request(1) + request(2) + b" \n")
    pieces = [large.read_bytes()[start : start + 80] for start in range(0, large.stat().st_size, 80)]
    server.answer("POST", "/v1/uploads", UPLOAD)
    server.answer("POST", "/v1/uploads/upload_1/parts", (503, {}), *map(part_json, range(len(pieces))))
    server.answer("POST", "/v1/uploads/upload_1/complete", UPLOAD | {"status": "completed", "file": FILE})

    result = raybatch("submit", str(large))

    assert (result.exit_code, result.stdout) == (0, "batch_1\n")
    (declared,) = server.bodies("POST", "/v1/uploads")
    assert json.loads(declared) == {
        "bytes": large.stat().st_size,
        "filename": "large.jsonl",
        "mime_type": "application/jsonl",
        "purpose": "batch",
    }
    _, *sent = server.bodies("POST", "/v1/uploads/upload_1/parts")
    assert len(sent) == len(pieces)
    assert all(piece in body for piece, body in zip(pieces, sent, strict=True))
    (completed,) = server.bodies("POST", "/v1/uploads/upload_1/complete")
    assert json.loads(completed) == {
        "part_ids": [f"part_{number}" for number in range(len(pieces))],
        "md5": hashlib.md5(large.read_bytes()).hexdigest(),
    }
    assert server.bodies("POST", "/v1/files") == []
    assert f"uploaded {large.stat().st_size} B of {large.stat().st_size} B" in result.stderr


def test_a_large_file_that_is_refused_leaves_no_upload_behind(
    raybatch: Run, server: FakeServer, requests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "WHOLE_BYTES_MAX", 99)
    server.answer("POST", "/v1/uploads", UPLOAD)
    server.answer("POST", "/v1/uploads/upload_1/parts", part_json(0))
    server.answer("POST", "/v1/uploads/upload_1/complete", (400, {"error": {"message": "Invalid file."}}))
    server.answer("POST", "/v1/uploads/upload_1/cancel", UPLOAD | {"status": "cancelled"})
    result = raybatch("submit", str(requests))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("raybatch: Invalid file.\n")
    assert len(server.bodies("POST", "/v1/uploads/upload_1/cancel")) == 1


def test_standard_input_is_uploaded_byte_for_byte(raybatch: Run, server: FakeServer) -> None:
    sent = request(1) + b"not a request\n" + request(2)
    assert raybatch("submit", "-", stdin=sent).exit_code == 0
    assert sent in server.bodies("POST", "/v1/files")[0]


def test_another_model_replaces_each_requests_own_and_leaves_bad_lines_alone(
    raybatch: Run, server: FakeServer
) -> None:
    bad = b'{"body": broken\n[1]\n'
    assert raybatch("submit", "-", "--model", "other", stdin=request(1) + bad + request(2)).exit_code == 0
    uploaded = server.bodies("POST", "/v1/files")[0]
    assert bad in uploaded
    assert uploaded.count(b'"model":"other"') == 2
    assert b"org/small" not in uploaded


def test_a_batch_that_fails_its_check_names_each_bad_line(
    raybatch: Run, server: FakeServer, requests: Path
) -> None:
    failed = batch_json("failed", errors=ERRORS)
    server.answer("GET", "/v1/batches/batch_1", batch_json("validating"), failed)
    result = raybatch("submit", str(requests))
    assert (result.exit_code, result.stdout) == (1, "batch_1\n")
    assert "line 3: This line is not parseable. (invalid_json_line)" in result.stderr
    assert "line 7: The URL does not match. (invalid_url)" in result.stderr


def test_waiting_ends_with_the_batch_and_prints_it_as_json_when_asked(
    raybatch: Run, server: FakeServer, requests: Path
) -> None:
    server.answer("GET", "/v1/batches/batch_1", batch_json("in_progress"), batch_json("completed"))
    result = raybatch("submit", str(requests), "--wait", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["status"] == "completed"
    assert "completed: 3 of 4 rows, 1 failed" in result.stderr


def test_a_refused_create_shows_the_servers_own_words(
    raybatch: Run, server: FakeServer, requests: Path
) -> None:
    server.answer("POST", "/v1/batches", (400, {"error": {"message": "Invalid value: '/v1/x'."}}))
    result = raybatch("submit", str(requests), "--endpoint", "/v1/x")
    assert (result.exit_code, result.stderr) == (1, "raybatch: Invalid value: '/v1/x'.\n")


@pytest.mark.parametrize(
    ("words", "stdin", "named"),
    [
        (["/nowhere/in.jsonl"], None, "/nowhere/in.jsonl"),
        (["-"], b"id,prompt\n1,hello\n", "id,prompt"),
        (["-", "--metadata", "run"], request(1), "'run'"),
    ],
)
def test_what_cannot_be_submitted_is_refused_before_anything_is_sent(
    raybatch: Run, server: FakeServer, words: list[str], stdin: bytes | None, named: str
) -> None:
    result = raybatch("submit", *words, stdin=stdin)
    assert result.exit_code == 1
    assert named in result.stderr
    assert server.asked == []
