"""Dead letters: what failed and why, and once more."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import httpx2
import pytest

from tests.serve_app.local_scheduler import LocalScheduler
from tests.serve_app.requests import jsonl, request

#: every third row fails for good, one more in its first two attempts, and one in its first
LINES = [
    request(f"r{i}", **({"fail": True, "error_type": "bad_prompt"} if i % 3 == 1 else {})) for i in range(9)
]
LINES += [request("twice", fail=2), request("once", fail=1)]
FOR_GOOD = [1, 4, 7]


@pytest.fixture
async def batch_id(http: httpx2.AsyncClient, scheduler: LocalScheduler) -> str:
    """Of a batch that ended with five failed rows."""
    created = await http.post("/v1/batches", files={"file": ("in.jsonl", jsonl(*LINES))})
    scheduler.run_chores()
    scheduler.run_rows(len(LINES))
    shown: str = created.json()["id"]
    return shown


async def failed(http: httpx2.AsyncClient, batch_id: str, **query: Any) -> dict[str, Any]:
    answer = await http.get(f"/v1/batches/{batch_id}/failed", params=query)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def look(http: httpx2.AsyncClient, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get(f"/v1/batches/{batch_id}")).json()
    return found


async def content(http: httpx2.AsyncClient, file_id: str | None) -> bytes:
    return (await http.get(f"/v1/files/{file_id}/content")).content


async def test_failed_rows_say_why_and_how_often_they_were_tried(
    http: httpx2.AsyncClient, batch_id: str
) -> None:
    page = await failed(http, batch_id)
    assert page["object"] == "list"
    assert page["data"][0] == {
        "index": 1,
        "custom_id": "r1",
        "error_type": "bad_prompt",
        "error_code": "nope",
        "error_message": "no",
        "status_code": 400,
        "attempts": 1,
        "first_at": 1.0,
        "last_at": 2.0,
    }
    assert [row["index"] for row in page["data"]] == [1, 4, 7, 9, 10]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (1, 10, False)


async def test_failed_rows_come_in_pages_by_type_and_whole(http: httpx2.AsyncClient, batch_id: str) -> None:
    first = await failed(http, batch_id, limit=2)
    assert ([row["index"] for row in first["data"]], first["has_more"]) == ([1, 4], True)
    rest = await failed(http, batch_id, after=first["last_id"])
    assert ([row["index"] for row in rest["data"]], rest["has_more"]) == ([7, 9, 10], False)
    picked = await failed(http, batch_id, error_type=["bad_prompt", "unheard_of"], limit=3)
    assert ([row["index"] for row in picked["data"]], picked["has_more"]) == (FOR_GOOD, False)

    url = f"/v1/batches/{batch_id}/failed"
    lines = (await http.get(url, params={"format": "jsonl"})).text.splitlines()
    assert [json.loads(line) for line in lines] == (await failed(http, batch_id))["data"]
    table = csv.DictReader(io.StringIO((await http.get(url, params={"format": "csv"})).text))
    assert [(row["custom_id"], row["first_at"]) for row in table][:2] == [("r1", "1.0"), ("r4", "1.0")]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"format": "xml"}, {"after": -1}):
        assert (await http.get(url, params=wrong)).status_code == 400


async def test_a_retry_runs_what_failed_again_and_leaves_the_old_files_alone(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, batch_id: str
) -> None:
    before = await look(http, batch_id)
    old = {kind: await content(http, before[f"{kind}_file_id"]) for kind in ("output", "error")}

    again = (await http.post(f"/v1/batches/{batch_id}/retry")).json()
    assert (again["status"], again["raybatch"]["round"]) == ("in_progress", 2)
    assert (again["output_file_id"], again["completed_at"]) == (None, None)
    assert again["request_counts"] == {"total": 11, "completed": 6, "failed": 0}
    assert (await failed(http, batch_id))["data"] == []

    scheduler.run_rows(len(LINES))
    after = await look(http, batch_id)
    assert (after["status"], after["request_counts"]) == (
        "completed",
        {"total": 11, "completed": 7, "failed": 4},
    )
    letters = {row["index"]: row for row in (await failed(http, batch_id))["data"]}
    assert list(letters) == [*FOR_GOOD, 9]
    assert {row["attempts"] for row in letters.values()} == {2}
    new = {kind: await content(http, after[f"{kind}_file_id"]) for kind in ("output", "error")}
    assert [len(new[kind].splitlines()) for kind in new] == [7, 4]
    assert new["output"] == (await http.get(f"/v1/batches/{batch_id}/results")).content
    for kind, bytes_before in old.items():
        assert await content(http, before[f"{kind}_file_id"]) == bytes_before
        assert before[f"{kind}_file_id"] != after[f"{kind}_file_id"]
    assert after["usage"]["output_tokens"] == 2 * 7


async def test_a_retry_can_pick_by_type_and_by_id(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, batch_id: str
) -> None:
    url = f"/v1/batches/{batch_id}/retry"
    both = {"error_types": ["invalid_request_error"], "custom_ids": ["once"]}
    picked = (await http.post(url, json=both)).json()
    assert picked["request_counts"] == {"total": 11, "completed": 6, "failed": 4}
    scheduler.run_rows(20)
    assert [row["index"] for row in (await failed(http, batch_id))["data"]] == [*FOR_GOOD, 9]

    picked = (await http.post(url, json={"error_types": ["bad_prompt"]})).json()
    assert picked["request_counts"]["failed"] == 1
    scheduler.run_rows(20)
    for attempts in (2, 3):
        await http.post(url, json={"custom_ids": ["twice"]})
        scheduler.run_rows(20)
        left = {row["custom_id"]: row["attempts"] for row in (await failed(http, batch_id))["data"]}
        assert left == {"r1": 2, "r4": 2, "r7": 2} | ({"twice": 2} if attempts == 2 else {})
    assert (await look(http, batch_id))["raybatch"]["round"] == 5


async def test_a_retry_of_what_cannot_be_retried_is_refused(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, batch_id: str
) -> None:
    url = f"/v1/batches/{batch_id}/retry"
    wrong: list[tuple[Any, str, str]] = [
        ({"types": ["x"]}, "unknown_parameter", "types"),
        ({"error_types": "x"}, "invalid_type", "error_types"),
        ({"custom_ids": [1]}, "invalid_type", "custom_ids[0]"),
        ({"custom_ids": []}, "empty_array", "custom_ids"),
        ({"custom_ids": ["r0", "once"]}, "invalid_value", "custom_ids"),  # r0 did not fail
        ({"error_types": ["typo"]}, "invalid_value", "error_types"),
        ([], "invalid_type", ""),
    ]
    for body, code, param in wrong:
        answer = await http.post(url, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"] or "") == (400, code, param)
    assert "'bad_prompt'" in (await http.post(url, json={"error_types": ["typo"]})).json()["error"]["message"]

    assert (await http.post(url)).status_code == 200
    running = await http.post(url, json={"custom_ids": ["none"]})
    assert (running.status_code, running.headers["x-should-retry"]) == (409, "false")
    scheduler.run_rows(20)

    created = await http.post("/v1/batches", files={"file": ("in.jsonl", jsonl(request("r0")))})
    scheduler.run_chores()
    scheduler.run_rows(1)
    clean = await http.post(f"/v1/batches/{created.json()['id']}/retry")
    assert (clean.status_code, clean.headers["x-should-retry"]) == (409, "false")
    assert "nothing to retry" in clean.json()["error"]["message"]
