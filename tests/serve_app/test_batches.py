"""Batches through the stock client, from create to download, with every status on the way."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch

from raybatch.config import Home
from raybatch.core.estimate import Estimate
from raybatch.core.policy import Policy
from tests.serve_app.local_scheduler import LocalScheduler, blobs
from tests.serve_app.requests import CHAT, jsonl, output_line, request, some

MIXED = [request(f"r{i}", **({"fail": True} if i % 3 == 1 else {})) for i in range(10)]
OUTPUT = b"".join(output_line(i, line) for i, line in enumerate(MIXED) if i % 3 != 1)
ERRORS = b"".join(output_line(i, line) for i, line in enumerate(MIXED) if i % 3 == 1)


async def begin(client: AsyncOpenAI, content: bytes, **params: Any) -> Batch:
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    created = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **params}
    return await client.batches.create(**created)


async def test_a_batch_runs_from_create_to_its_two_files(
    client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    batch = await begin(client, jsonl(*MIXED), metadata={"team": "blue"})
    assert (batch.status, batch.metadata, batch.in_progress_at) == ("validating", {"team": "blue"}, None)
    scheduler.run_chores()
    assert (await client.batches.retrieve(batch.id)).status == "in_progress"

    scheduler.run_rows(10)
    batch = await client.batches.retrieve(batch.id)
    assert batch.status == "completed"
    assert batch.model == "org/small"
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 10, "completed": 7, "failed": 3}
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == (21, 14)
    for file_id, expected in ((batch.output_file_id, OUTPUT), (batch.error_file_id, ERRORS)):
        assert file_id is not None
        assert (await client.files.content(file_id)).content == expected
        file = await client.files.retrieve(file_id)
        assert (file.purpose, file.bytes) == ("batch_output", len(expected))


async def test_without_failures_there_is_no_error_file(
    client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    batch = await begin(client, some(2))
    scheduler.run_chores()
    scheduler.run_rows(2)
    batch = await client.batches.retrieve(batch.id)
    assert batch.output_file_id
    assert batch.error_file_id is None


async def test_a_batch_object_shows_its_pace_under_our_own_key(
    client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    batch = await begin(client, some(2))
    shown: Any = (await client.batches.retrieve(batch.id)).to_dict()["raybatch"]
    assert shown == {
        "tenant": "default",
        "priority": 0,
        "validation": "strict",
        "round": 1,
        "paused": False,
        "rows_per_s": 2.0,
        "tokens_per_s": 20.0,
        "eta": None,
        "eta_s": None,
    }
    scheduler.eta = Estimate(4.0, 5.0)
    before = int(time.time())
    shown = (await client.batches.retrieve(batch.id)).to_dict()["raybatch"]
    assert (shown["eta_s"], shown["eta"]["p50_s"], shown["eta"]["p90_s"]) == (4.0, 4.0, 5.0)
    assert before + 4 <= shown["eta"]["p50_at"] < shown["eta"]["p90_at"] <= time.time() + 5


async def test_an_unknown_input_file_is_accepted_and_then_fails(client: AsyncOpenAI) -> None:
    created = await client.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="24h")
    assert created.status == "validating"
    failed = await client.batches.retrieve(created.id)
    assert failed.status == "failed"
    assert failed.errors is not None
    assert failed.errors.to_dict() == {
        "object": "list",
        "data": [
            {
                "code": "invalid_request",
                "message": "No such File object: file-none",
                "param": "file_id",
                "line": None,
            }
        ],
    }


async def test_a_broken_line_fails_the_batch_by_line_code_and_message(
    client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    batch = await begin(client, some(1) + b"{broken\n" + jsonl(request("r0")))
    scheduler.run_chores()
    batch = await client.batches.retrieve(batch.id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.errors is not None
    found = [(error.line, error.code, error.param) for error in batch.errors.data or ()]
    assert found == [(2, "invalid_json_line", None), (3, "duplicate_custom_id", "custom_id")]


async def test_a_cancelled_batch_keeps_what_was_finished_and_accounts_for_the_rest(
    client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    batch = await begin(client, some(40))
    scheduler.run_chores()
    scheduler.run_rows(16)
    cancelling = await client.batches.cancel(batch.id)
    assert cancelling.status == "cancelling"
    assert cancelling.cancelling_at is not None

    scheduler.run_chores()
    cancelled = await client.batches.cancel(batch.id)
    assert cancelled.status == "cancelled"
    assert cancelled.request_counts is not None
    assert cancelled.request_counts.to_dict() == {"total": 40, "completed": 16, "failed": 24}
    assert cancelled.error_file_id is not None
    errors = (await client.files.content(cancelled.error_file_id)).text.splitlines()
    assert [json.loads(line)["error"]["code"] for line in errors] == ["batch_cancelled"] * 24


async def test_an_ended_batch_refuses_to_be_cancelled_and_asks_not_to_be_tried_again(
    client: AsyncOpenAI,
) -> None:
    batch = await client.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="24h")
    with pytest.raises(openai.ConflictError) as refused:
        await client.batches.cancel(batch.id)
    assert "Cannot cancel a batch with status 'failed'." in refused.value.message
    assert refused.value.response.headers["x-should-retry"] == "false"


async def test_lists_page_newest_first(client: AsyncOpenAI) -> None:
    ids = [(await begin(client, some(1))).id for _ in range(5)]
    page = await client.batches.list(limit=2)
    assert page.to_dict()["first_id"] == ids[-1]
    assert page.has_more
    assert [batch.id async for batch in page] == ids[::-1]
    for limit in (0, 101):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.batches.list(limit=limit)
        assert refused.value.param == "limit"


async def test_an_unknown_batch_is_not_found_in_the_same_words_everywhere(
    http: httpx2.AsyncClient,
) -> None:
    calls = [("GET", ""), ("GET", "/results"), ("GET", "/failed"), ("GET", "/logs"), ("GET", "/events")]
    calls += [("POST", f"/{verb}") for verb in ("cancel", "pause", "resume", "retry")]
    for method, tail in calls:
        answer = await http.request(method, f"/v1/batches/batch_none{tail}")
        assert answer.status_code == 404
        assert answer.json() == {
            "error": {
                "message": "No batch found with id 'batch_none'.",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        }


async def test_wrong_parameters_create_nothing(client: AsyncOpenAI) -> None:
    good = {"input_file_id": "file-none", "endpoint": CHAT, "completion_window": "24h"}
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"endpoint": "/v1/nope"}, "endpoint", "invalid_value"),
        ({"completion_window": "48h"}, "completion_window", "invalid_value"),
        ({"metadata": {"a": ["b"]}}, "metadata.a", "invalid_type"),
    ]
    for change, param, code in wrong:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.batches.create(**{**good, **change})
        assert (refused.value.param, refused.value.code) == (param, code)
    assert (await client.batches.list()).data == []


async def test_a_create_sent_again_answers_the_first_batch(
    client: AsyncOpenAI, http: httpx2.AsyncClient
) -> None:
    file = await client.files.create(file=("in.jsonl", some(1)), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}

    async def create(**headers: str) -> str:
        shown_headers = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await http.post("/v1/batches", json=body, headers=shown_headers)
        batch_id: str = answer.json()["id"]
        return batch_id

    first = await create(x_stainless_retry_count="0")
    assert await create(x_stainless_retry_count="1") == first
    second = await create(x_stainless_retry_count="0")
    assert second != first
    keyed = await create(idempotency_key="k1")
    assert keyed not in (first, second)
    assert await create(idempotency_key="k1") == keyed
    answer = await http.post("/v1/batches", json=body, headers={"Idempotency-Key": "k" * 256})
    assert answer.status_code == 400


# -- file and batch in one request ---------------------------------------------------------------------------


async def test_one_form_uploads_and_starts(
    http: httpx2.AsyncClient, client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    form = {"model": "org/small", "metadata": '{"a":"b"}', "priority": "5"}
    answer = await http.post("/v1/batches", data=form, files={"file": ("in.jsonl", jsonl(*MIXED))})
    shown = answer.json()
    assert (shown["status"], shown["metadata"], shown["estimate"]) == ("validating", {"a": "b"}, None)
    assert shown["raybatch"]["priority"] == 5

    scheduler.run_chores()
    scheduler.run_rows(10)
    batch = await client.batches.retrieve(shown["id"])
    assert batch.status == "completed"
    assert batch.output_file_id is not None
    assert (await client.files.content(batch.output_file_id)).content == OUTPUT


async def test_the_estimate_is_by_measured_pace_and_shares_with_what_runs_already(
    http: httpx2.AsyncClient, client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    scheduler.measure(rows_per_s=50.0, tokens_per_s=5_000.0)
    first = (await http.post("/v1/batches", files={"file": ("in.jsonl", some(3000))})).json()
    assert first["estimate"] == {
        "estimated_time_minutes": 1.0,
        "p90_time_minutes": 1.06,
        "rows": 3000,
        "rows_ahead": 0,
        "rows_per_s": 50.0,
    }
    assert first["raybatch"]["estimate"] == first["estimate"]
    scheduler.run_chores()

    (running,) = (batch for batch in scheduler.batches() if batch.batch_id == first["id"])
    scheduler.measure(rows_per_s=50.0, tokens_per_s=50.0 * running.by_model[0].expected_row_tokens)
    file = await client.files.create(file=("in.jsonl", some(300)), purpose="batch")
    small = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    estimate: Any = small.to_dict()["raybatch"]
    assert estimate["estimate"]["estimated_time_minutes"] == 0.2  # beside as many of the large one's rows
    assert estimate["estimate"]["rows_ahead"] == 300


async def test_nothing_is_estimated_of_a_model_that_was_never_measured(
    http: httpx2.AsyncClient, scheduler: LocalScheduler
) -> None:
    scheduler.measure(rows_per_s=50.0, tokens_per_s=5_000.0)
    file = {"file": ("in.jsonl", jsonl(request("r0", model="other")))}
    assert (await http.post("/v1/batches", files=file)).json()["estimate"] is None


async def test_what_exceeds_a_limit_is_refused_and_leaves_nothing(
    http: httpx2.AsyncClient, home: Home, scheduler: LocalScheduler
) -> None:
    scheduler.policy = Policy(requests_max=3, active_batches_max=1)
    too_long = await http.post("/v1/batches", files={"file": ("in.jsonl", some(4) + b" \r\n\n")})
    error = too_long.json()["error"]
    assert (too_long.status_code, error["code"]) == (400, "too_many_tasks")
    assert "holds 4 requests" in error["message"]
    assert "scheduler.requests_max" in error["message"]
    scheduler.run_chores()
    assert blobs(home) == []

    assert (await http.post("/v1/batches", files={"file": ("in.jsonl", some(3))})).status_code == 200
    busy = await http.post("/v1/batches", files={"file": ("in.jsonl", some(3))})
    assert (busy.status_code, busy.json()["error"]["code"]) == (429, "too_many_batches")
    assert int(busy.headers["retry-after"]) > 0
    scheduler.run_chores()
    assert len(blobs(home)) == 1


# -- paused ------------------------------------------------------------------------------------------------


async def test_a_paused_batch_starts_no_row_until_it_is_resumed(
    http: httpx2.AsyncClient, client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    batch = await begin(client, some(20))
    url = f"/v1/batches/{batch.id}"
    scheduler.run_chores()
    paused = (await http.post(f"{url}/pause")).json()
    assert (paused["status"], paused["raybatch"]["paused"]) == ("in_progress", True)
    assert (await http.post(f"{url}/pause")).status_code == 200
    assert scheduler.report(wants_rows=20) == ()

    assert (await http.post(f"{url}/resume")).json()["raybatch"]["paused"] is False
    scheduler.run_rows(20)
    assert (await http.get(url)).json()["status"] == "completed"
    refused = await http.post(f"{url}/pause")
    assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")


async def test_everything_can_be_paused_at_once(
    http: httpx2.AsyncClient, client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    batch = await begin(client, some(20))
    scheduler.run_chores()
    token = {"Authorization": "Bearer the-admin-token"}
    assert (await http.post("/admin/pause", json={"on": True}, headers=token)).json() == {"paused": True}
    assert (await http.get(f"/v1/batches/{batch.id}")).json()["raybatch"]["paused"] is True
    health = await http.get("/health")
    assert (health.status_code, health.json()["paused"]) == (200, True)
    assert scheduler.report(wants_rows=20) == ()
    assert (await http.post("/admin/pause", json={"on": 1}, headers=token)).status_code == 400

    assert (await http.post("/admin/pause", json={"on": False}, headers=token)).json() == {"paused": False}
    scheduler.run_rows(20)
    assert (await client.batches.retrieve(batch.id)).status == "completed"


async def test_the_log_tells_what_happened_to_a_batch(
    http: httpx2.AsyncClient, client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    batch = await begin(client, some(20))
    scheduler.run_chores()
    scheduler.run_rows(20)
    log = (await http.get(f"/v1/batches/{batch.id}/logs")).json()
    kinds = [entry["kind"] for entry in log["data"]]
    assert (kinds[:3], kinds[-1]) == (["created", "validated", "started"], "ended")
    started = log["data"][2]
    assert started["engine"] == "engine-1"
    assert set(started) == {"at", "kind", "message", "engine"}


@pytest.mark.parametrize(
    ("form", "param", "code"),
    [
        ({"model": "nope"}, "model", "model_not_found"),
        ({"model": "other"}, "model", "mismatched_model"),
        ({"endpoint": "/v1/nope"}, "endpoint", "invalid_value"),
        ({"metadata": "{"}, "metadata", "invalid_type"),
        ({"metadata": '{"a":1}'}, "metadata.a", "invalid_type"),
        ({"priority": "high"}, "priority", "invalid_type"),
        ({"colour": "blue"}, "colour", "unknown_parameter"),
    ],
)
async def test_a_wrong_form_starts_nothing_and_leaves_nothing(
    http: httpx2.AsyncClient, home: Home, form: dict[str, str], param: str, code: str
) -> None:
    answer = await http.post("/v1/batches", data=form, files={"file": ("in.jsonl", some(1))})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert blobs(home) == []
    assert (await http.get("/v1/batches")).json()["data"] == []


async def test_a_form_sent_again_answers_the_first_batch_and_keeps_one_copy(
    http: httpx2.AsyncClient, home: Home
) -> None:
    ids = set()
    for retry in ("0", "1", "2"):
        files = {"file": ("in.jsonl", some(5))}
        headers = {"x-stainless-retry-count": retry}
        ids.add((await http.post("/v1/batches", files=files, headers=headers)).json()["id"])
    assert len(ids) == 1
    assert len((await http.get("/v1/files")).json()["data"]) == 1
