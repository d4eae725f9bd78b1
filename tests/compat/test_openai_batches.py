"""Batches and models, with the stock Python client at its strictest: each test with both forms of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import httpx
import pytest
from openai import BadRequestError, ConflictError, NotFoundError, OpenAI
from openai.types import Batch

from tests.compat.conftest import ENDED, Seen, Server, ended
from tests.compat.lines import CHAT, bad_lines, chats, custom_ids, read

pytestmark = pytest.mark.cluster

NO_BATCH: Final = "batch_00000000000000000000000000000000"

#: what each status may be followed by, in what a client sees that looks now and then
FOLLOWED_BY: Final = {
    "validating": {"in_progress", "finalizing", "completed", "failed"},
    "in_progress": {"finalizing", "completed"},
    "finalizing": {"completed"},
    "cancelling": {"cancelled"},
}


@pytest.fixture(scope="session")
def file_id(server: Server, sync_client: OpenAI) -> str:
    """Three rows, for batches that are only created."""
    return sync_client.files.create(file=("requests.jsonl", chats(server.model, 3)), purpose="batch").id


def create(client: Any, file_id: str, **params: Any) -> Batch:
    asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"} | params
    batch: Batch = client.batches.create(**asked)
    return batch


# -- what a batch says of itself -----------------------------------------------------------------------------


def test_a_new_batch_has_every_field(client: Any, file_id: str) -> None:
    raw = client.batches.with_raw_response.create(
        input_file_id=file_id, endpoint=CHAT, completion_window="24h", metadata={"k": "v"}
    )
    batch = raw.http_response.json()
    assert (batch["object"], batch["status"], batch["endpoint"]) == ("batch", "validating", CHAT)
    assert (batch["input_file_id"], batch["completion_window"], batch["metadata"]) == (
        file_id,
        "24h",
        {"k": "v"},
    )
    assert batch["id"].startswith("batch_")
    assert batch["expires_at"] == batch["created_at"] + 86_400
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert (batch["usage"]["total_tokens"], batch["usage"]["input_tokens_details"]["cached_tokens"]) == (0, 0)
    told_later = ("errors", "output_file_id", "error_file_id", "in_progress_at", "finalizing_at")
    told_later += ("completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
    assert {batch[name] for name in told_later} == {None}


def test_a_completed_batch_has_its_instants_in_order_and_its_usage(client: Any, seen: Seen) -> None:
    batch = client.batches.retrieve(seen.completed.id)
    instants = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert list(instants) == sorted(instants)
    assert (batch.failed_at, batch.expired_at, batch.cancelling_at, batch.cancelled_at) == (None,) * 4
    assert (batch.errors, batch.metadata) == (None, {"for": "the clients' suite"})
    assert batch.request_counts.model_dump() == {"total": 12, "completed": 12, "failed": 0}
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens > 0


def test_statuses_follow_one_another_as_openais_do(client: Any, file_id: str) -> None:
    batch = create(client, file_id)
    statuses = [batch.status]
    while batch.status not in ENDED:
        batch = client.batches.retrieve(batch.id)
        statuses += [batch.status] if batch.status != statuses[-1] else []
    assert (statuses[0], statuses[-1]) == ("validating", "completed")
    assert all(after in FOLLOWED_BY[before] for before, after in pairwise(statuses))


# -- its files -----------------------------------------------------------------------------------------------


def test_output_is_in_input_order_and_whole(client: Any, seen: Seen) -> None:
    asked = custom_ids(client.files.content(seen.completed.input_file_id).content)
    lines = read(client.files.content(seen.completed.output_file_id).content)
    assert [line["custom_id"] for line in lines] == asked
    for line in lines:
        assert line["id"].startswith("batch_req_")
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        assert line["response"]["request_id"]
        assert line["response"]["body"]["object"] == "chat.completion"
        assert line["response"]["body"]["choices"][0]["message"]["role"] == "assistant"


def test_a_batch_without_failures_has_no_error_file(seen: Seen) -> None:
    assert seen.completed.error_file_id is None


def test_a_refused_request_is_a_line_of_the_error_file(client: Any, seen: Seen) -> None:
    batch = seen.mixed
    assert (batch.status, batch.request_counts.model_dump()) == (
        "completed",
        {"total": 4, "completed": 2, "failed": 2},
    )
    assert custom_ids(client.files.content(batch.output_file_id).content) == ["row-0", "row-2"]
    lines = read(client.files.content(batch.error_file_id).content)
    assert [line["custom_id"] for line in lines] == ["row-1", "row-3"]
    for line in lines:
        assert line["error"] is None
        assert line["response"]["status_code"] == 400
        assert set(line["response"]["body"]["error"]) >= {"message", "type", "param", "code"}


def test_a_batch_whose_every_request_failed_is_completed_without_an_output_file(
    client: Any, seen: Seen
) -> None:
    batch = seen.all_refused
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert batch.request_counts.model_dump() == {"total": 2, "completed": 0, "failed": 2}
    assert len(read(client.files.content(batch.error_file_id).content)) == 2


def test_a_bad_file_fails_its_batch_and_every_bad_line_is_named_in_order(
    client: Any, seen: Seen, server: Server
) -> None:
    batch = client.batches.retrieve(seen.failed.id)
    assert (batch.status, batch.failed_at is None, batch.in_progress_at) == ("failed", False, None)
    assert (batch.output_file_id, batch.error_file_id, batch.errors.object) == (None, None, "list")
    expected = bad_lines(server.model)
    assert [(error.line, error.code, error.param) for error in batch.errors.data] == [
        (number, bad.code, bad.param) for number, bad in enumerate(expected, 3)
    ]
    for error, bad in zip(batch.errors.data, expected, strict=True):
        assert error.message.startswith(bad.message)


def test_an_unknown_input_file_fails_the_batch_and_not_the_call(client: Any) -> None:
    batch = ended(client, create(client, "file-000000000000000000000000").id)
    assert batch.status == "failed"
    assert [(error.code, error.param) for error in batch.errors.data] == [("invalid_request", "file_id")]


# -- cancelling ----------------------------------------------------------------------------------------------


def test_a_cancelled_batch_keeps_what_it_has_and_names_the_rest(
    client: Any, server: Server, submit: Callable[..., Batch]
) -> None:
    batch = submit(chats(server.model, 3_000))
    cancelling = client.batches.cancel(batch.id)
    assert (cancelling.status, cancelling.cancelling_at is None) == ("cancelling", False)
    again = client.batches.cancel(batch.id)
    assert again.status in ("cancelling", "cancelled")
    batch = ended(client, batch.id)
    assert (batch.status, batch.cancelled_at is None) == ("cancelled", False)
    assert client.batches.cancel(batch.id).status == "cancelled"
    counts = batch.request_counts
    assert counts.total == counts.completed + counts.failed
    assert counts.completed == _rows(client, batch.output_file_id)
    assert counts.failed == _rows(client, batch.error_file_id)
    if batch.error_file_id is not None:
        last = read(client.files.content(batch.error_file_id).content)[-1]
        assert (last["response"], last["error"]["code"]) == (None, "batch_cancelled")


@pytest.mark.parametrize("which", ["completed", "failed"])
def test_an_ended_batch_cannot_be_cancelled(client: Any, seen: Seen, which: str) -> None:
    batch_id = getattr(seen, which).id
    with pytest.raises(ConflictError) as refused:
        client.batches.cancel(batch_id)
    assert refused.value.status_code == 409
    assert refused.value.body["message"] == f"Cannot cancel a batch with status '{which}'."  # type: ignore[index]
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_the_stock_client_does_not_try_a_409_again(server: Server, seen: Seen) -> None:
    asked: list[str] = []
    options = server.client_options | {"max_retries": 2}
    with OpenAI(**options) as client:
        client._client.event_hooks = {"request": [lambda request: asked.append(request.url.path)]}
        with pytest.raises(ConflictError):
            client.batches.cancel(seen.completed.id)
    assert len(asked) == 1


# -- created once --------------------------------------------------------------------------------------------


def test_the_same_idempotency_key_answers_the_same_batch(client: Any, file_id: str) -> None:
    key = {"Idempotency-Key": f"key-{time.time_ns()}"}
    first = create(client, file_id, extra_headers=key)
    assert create(client, file_id, extra_headers=key).id == first.id
    assert create(client, file_id).id != first.id


def test_a_create_that_the_client_tries_again_answers_the_batch_of_the_first_try(
    client: Any, file_id: str
) -> None:
    once = {"once": str(time.time_ns())}
    first = create(client, file_id, metadata=once)
    again = {"x-stainless-retry-count": "1"}
    assert create(client, file_id, metadata=once, extra_headers=again).id == first.id
    assert create(client, file_id, metadata=once | {"more": ""}, extra_headers=again).id != first.id


# -- lists and lookups ---------------------------------------------------------------------------------------


def test_batches_are_listed_page_by_page_newest_first(client: Any, file_id: str) -> None:
    made = [create(client, file_id).id for _ in range(3)]
    listed = []
    for batch in client.batches.list(limit=1):
        listed.append(batch.id)
        if batch.id == made[0]:
            break
    assert [batch_id for batch_id in listed if batch_id in made] == made[::-1]
    assert client.batches.list(after=made[1], limit=1).data[0].id == made[0]


def test_a_page_names_its_ends(client: Any, seen: Seen) -> None:
    page = client.batches.with_raw_response.list(limit=2).http_response.json()
    assert (page["object"], len(page["data"]), page["has_more"]) == ("list", 2, True)
    assert (page["first_id"], page["last_id"]) == tuple(batch["id"] for batch in page["data"])


@pytest.mark.parametrize("limit", [0, 101])
def test_a_limit_out_of_bounds_is_refused(client: Any, limit: int) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.batches.list(limit=limit)
    assert refused.value.param == "limit"


@pytest.mark.parametrize("call", ["retrieve", "cancel"])
def test_an_unknown_batch_is_named_in_a_404(client: Any, call: str) -> None:
    with pytest.raises(NotFoundError) as refused:
        getattr(client.batches, call)(NO_BATCH)
    assert refused.value.body["message"] == f"No batch found with id '{NO_BATCH}'."  # type: ignore[index]
    assert refused.value.type == "invalid_request_error"
    assert refused.value.request_id


# -- refused at the door -------------------------------------------------------------------------------------


def test_an_unknown_endpoint_is_answered_with_those_there_are(client: Any, file_id: str) -> None:
    with pytest.raises(BadRequestError, match="/v1/embeddings") as refused:
        create(client, file_id, endpoint="/v1/nothing")
    assert (refused.value.code, refused.value.param) == ("invalid_value", "endpoint")


@pytest.mark.parametrize("window", ["1h", "48h", ""])
def test_another_completion_window_is_refused(client: Any, file_id: str, window: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        create(client, file_id, completion_window=window)
    assert refused.value.param == "completion_window"


@pytest.mark.parametrize("missing", ["input_file_id", "endpoint", "completion_window"])
def test_a_missing_parameter_is_named(client: Any, file_id: str, missing: str) -> None:
    asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    del asked[missing]
    with pytest.raises(BadRequestError) as refused:
        client.post("/batches", cast_to=Batch, body=asked)
    assert (refused.value.code, refused.value.param) == ("missing_required_parameter", missing)


@pytest.mark.parametrize(
    ("metadata", "param"),
    [
        ({f"k{number}": "v" for number in range(17)}, "metadata"),
        ({"k" * 65: "v"}, "metadata"),
        ({"k": "v" * 513}, "metadata.k"),
        ({"k": 1}, "metadata.k"),
    ],
    ids=["17 pairs", "65 characters of a key", "513 characters of a value", "a number"],
)
def test_metadata_beyond_the_rules_is_refused(
    client: Any, file_id: str, metadata: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        create(client, file_id, metadata=metadata)
    assert refused.value.param == param


def test_metadata_of_another_type_is_refused_in_openais_words(client: Any, file_id: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        create(client, file_id, metadata={"k": []})
    assert (refused.value.code, refused.value.param) == ("invalid_type", "metadata.k")
    assert "expected a string, but got an array instead." in str(refused.value)


def test_metadata_at_the_edge_of_the_rules_comes_back(client: Any, file_id: str) -> None:
    most = {f"{number:02}{'k' * 62}": "\U0001f642" * 512 for number in range(16)}
    assert create(client, file_id, metadata=most).metadata == most


@pytest.mark.parametrize("seconds", [3_599, 2_592_001])
def test_an_output_expiry_out_of_bounds_is_refused(client: Any, file_id: str, seconds: int) -> None:
    with pytest.raises(BadRequestError) as refused:
        create(client, file_id, output_expires_after={"anchor": "created_at", "seconds": seconds})
    assert refused.value.param == "output_expires_after.seconds"


def test_a_body_that_is_no_json_is_a_400_in_the_same_envelope(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    answer = httpx.post(f"{server.base_url}/batches", content=b"{no", headers=headers)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


# -- models --------------------------------------------------------------------------------------------------


def test_models_are_listed_and_found_one_by_one(client: Any, server: Server) -> None:
    models = list(client.models.list())
    assert server.model in [model.id for model in models]
    for model in models:
        found = client.models.retrieve(model.id)
        assert (found.id, found.object, found.created, found.owned_by) == (
            model.id,
            "model",
            model.created,
            model.owned_by,
        )


def test_an_unknown_model_is_a_404(client: Any) -> None:
    with pytest.raises(NotFoundError) as refused:
        client.models.retrieve("nobody/serves-this")
    assert refused.value.code == "model_not_found"


def _rows(client: Any, file_id: str | None) -> int:
    return 0 if file_id is None else len(read(client.files.content(file_id).content))
