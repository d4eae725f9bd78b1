"""Plain curl: OpenAI's calls as a shell script makes them, then what this server has beyond them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from openai.types import Batch

from tests.compat.conftest import ENDED, ENDED_MAX_S, LOOK_S, Seen, Server
from tests.compat.lines import CHAT, REFUSED, chat, chats, custom_ids, jsonl, read

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine"),
]

CURL_MAX_S: Final = 120.0
PARQUET_MAGIC: Final = b"PAR1"


class Curl:
    def __init__(self, server: Server) -> None:
        self._server = server

    def __call__(self, path: str, *options: str) -> bytes:
        """The body of what is under ``/v1``. Fails the test for a status of 400 or more."""
        return self._run("--fail-with-body", path, *options)

    def json(self, path: str, *options: str) -> Any:
        return json.loads(self(path, *options))

    def status(self, path: str, *options: str) -> int:
        return int(self._run("--output", "/dev/null", "--write-out", "%{http_code}", path, *options))

    def new_results(self, batch_id: str, cursor: str) -> tuple[bytes, str]:
        """What came since the cursor, and the next one."""
        answer = self(f"/v1/batches/{batch_id}/results?after={cursor}", "--include")
        head, _, lines = answer.partition(b"\r\n\r\n")
        (told,) = re.findall(rb"^x-next-after: (\S+)", head, flags=re.M | re.I)
        return lines, quote(told.decode())

    def ended(self, batch_id: str) -> dict[str, Any]:
        deadline_mono = time.monotonic() + ENDED_MAX_S
        while (batch := self.json(f"/v1/batches/{batch_id}"))["status"] not in ENDED:
            assert time.monotonic() < deadline_mono, f"{batch_id} is still '{batch['status']}'"
            time.sleep(LOOK_S)
        found: dict[str, Any] = batch
        return found

    def _run(self, *options: str) -> bytes:
        url = [f"{self._server.url}{option}" if option.startswith("/v1") else option for option in options]
        command = ["curl", "--silent", "--show-error", "--config", "-", *url]
        key = f'header = "Authorization: Bearer {self._server.key}"'  # a command line is for all to see
        done = subprocess.run(
            command, input=key.encode(), capture_output=True, timeout=CURL_MAX_S, check=False
        )
        assert done.returncode == 0, f"{url}: {done.stderr.decode()}{done.stdout.decode()}"
        return done.stdout


@pytest.fixture
def curl(server: Server) -> Curl:
    return Curl(server)


@pytest.fixture
def path(server: Server, tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(chats(server.model, 5))
    return path


def test_upload_create_look_and_download(curl: Curl, path: Path) -> None:
    file = curl.json("/v1/files", "--form", "purpose=batch", "--form", f"file=@{path}")
    assert (file["filename"], file["status"]) == ("questions.jsonl", "processed")
    asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    body = ("--header", "Content-Type: application/json", "--data", json.dumps(asked))
    batch = curl.ended(curl.json("/v1/batches", *body)["id"])
    assert batch["status"] == "completed"
    output = curl(f"/v1/files/{batch['output_file_id']}/content")
    assert custom_ids(output) == custom_ids(path.read_bytes())
    assert curl.json(f"/v1/files/{file['id']}", "--request", "DELETE")["deleted"]


def test_a_download_that_broke_off_is_continued(curl: Curl, seen: Seen, tmp_path: Path) -> None:
    content = f"/v1/files/{seen.completed.output_file_id}/content"
    whole, begun = curl(content), tmp_path / "out.jsonl"
    begun.write_bytes(whole[:100])
    curl(content, "--continue-at", "-", "--output", str(begun))
    assert begun.read_bytes() == whole


def test_a_download_may_be_compressed_on_its_way(curl: Curl, seen: Seen) -> None:
    content = f"/v1/files/{seen.completed.output_file_id}/content"
    assert curl(content, "--compressed") == curl(content)


def test_a_batch_is_cancelled_and_an_ended_one_cannot_be(
    curl: Curl, server: Server, seen: Seen, submit: Callable[..., Batch]
) -> None:
    running = submit(chats(server.model, 2_000))
    cancelling = curl.json(f"/v1/batches/{running.id}/cancel", "--request", "POST")
    assert (cancelling["status"], cancelling["cancelling_at"] is None) == ("cancelling", False)
    assert curl.status(f"/v1/batches/{seen.completed.id}/cancel", "--request", "POST") == 409
    assert curl.ended(running.id)["status"] == "cancelled"


# -- beyond OpenAI's API -------------------------------------------------------------------------------------


def test_one_call_uploads_and_starts_and_estimates(curl: Curl, server: Server, path: Path) -> None:
    metadata = json.dumps({"from": "curl"})
    form = (f"file=@{path}", f"model={server.model}", f"metadata={metadata}", "priority=5")
    batch = curl.json("/v1/batches", *(word for field in form for word in ("--form", field)))
    assert (batch["status"], batch["metadata"]) == ("validating", {"from": "curl"})
    assert "estimate" in batch
    assert curl.ended(batch["id"])["request_counts"]["completed"] == 5


def test_results_come_as_lines_as_a_table_and_as_parquet(curl: Curl, seen: Seen) -> None:
    results = f"/v1/batches/{seen.mixed.id}/results"
    assert custom_ids(curl(results)) == ["row-0", "row-2"]
    assert custom_ids(curl(f"{results}?kind=error")) == ["row-1", "row-3"]
    assert custom_ids(curl(f"{results}?kind=all")) == ["row-0", "row-1", "row-2", "row-3"]
    header, *rows = curl(f"{results}?format=csv").decode().splitlines()
    assert "custom_id" in header.split(",")
    assert len(rows) == 4
    parquet = curl(f"{results}?format=parquet")
    assert (parquet[:4], parquet[-4:]) == (PARQUET_MAGIC, PARQUET_MAGIC)


def test_results_after_a_cursor_are_those_that_came_since(
    curl: Curl, server: Server, submit: Callable[..., Batch]
) -> None:
    batch = submit(chats(server.model, 500))
    read_once: list[str] = []
    cursor = ""
    while True:
        over = curl.json(f"/v1/batches/{batch.id}")["status"] in ENDED
        new, cursor = curl.new_results(batch.id, cursor)
        read_once += custom_ids(new)
        if over:
            break
    assert len(read_once) == 500
    assert set(read_once) == {f"row-{number}" for number in range(1, 501)}
    assert curl.new_results(batch.id, cursor)[0] == b""


def test_failed_requests_say_why_and_run_again_in_place(
    curl: Curl, server: Server, submit: Callable[..., Batch]
) -> None:
    batch = submit(jsonl([chat(server.model, "good"), chat(server.model, "bad", **REFUSED)]))
    before = curl.ended(batch.id)
    (letter,) = curl.json(f"/v1/batches/{batch.id}/failed")["data"]
    assert (letter["custom_id"], letter["index"], letter["attempts"] >= 1) == ("bad", 1, True)
    assert letter["error_type"]
    assert letter["error_message"]
    assert curl.json(f"/v1/batches/{batch.id}/retry", "--request", "POST")["status"] == "in_progress"
    after = curl.ended(batch.id)
    assert after["request_counts"] == before["request_counts"]
    assert after["error_file_id"] != before["error_file_id"]
    assert custom_ids(curl(f"/v1/files/{after['output_file_id']}/content")) == ["good"]


def test_a_paused_batch_waits_until_it_is_resumed(
    curl: Curl, server: Server, submit: Callable[..., Batch]
) -> None:
    batch = submit(chats(server.model, 3))
    curl(f"/v1/batches/{batch.id}/pause", "--request", "POST")
    assert curl.json(f"/v1/batches/{batch.id}")["raybatch"]["paused"]
    curl(f"/v1/batches/{batch.id}/resume", "--request", "POST")
    assert curl.ended(batch.id)["request_counts"]["completed"] == 3


def test_the_log_tells_what_happened_to_a_batch(curl: Curl, seen: Seen) -> None:
    entries = curl.json(f"/v1/batches/{seen.completed.id}/logs")["data"]
    instants = [entry["at"] for entry in entries]
    assert instants == sorted(instants)
    assert all(entry["kind"] and entry["message"] for entry in entries)


def test_delete_cancels_what_runs_and_forgets_what_ended(
    curl: Curl, server: Server, submit: Callable[..., Batch]
) -> None:
    batch = submit(chats(server.model, 2_000))
    first = curl.json(f"/v1/batches/{batch.id}", "--request", "DELETE")
    assert (first["deleted"], curl.ended(batch.id)["status"]) == (False, "cancelled")
    assert curl.json(f"/v1/batches/{batch.id}", "--request", "DELETE")["deleted"]
    assert curl.status(f"/v1/batches/{batch.id}") == 404


def test_health_and_the_apis_description_are_there(curl: Curl, server: Server) -> None:
    assert curl.json(f"{server.url}/health")["status"] == "ok"
    assert "/v1/batches/{batch_id}/cancel" in curl.json(f"{server.url}/openapi.json")["paths"]


def test_embeddings_and_completions_run_as_batches_too(
    curl: Curl, server: Server, submit: Callable[..., Batch]
) -> None:
    bodies = {"/v1/embeddings": {"input": "Hello."}, "/v1/completions": {"prompt": "Hello.", "max_tokens": 4}}
    begun = []
    for endpoint, body in bodies.items():
        one = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": server.model, **body}}
        begun.append(submit(jsonl([one]), endpoint=endpoint))
    for batch in begun:
        output_file_id = curl.ended(batch.id)["output_file_id"]
        (line,) = read(curl(f"/v1/files/{output_file_id}/content"))
        assert line["response"]["status_code"] == 200
