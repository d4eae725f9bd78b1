"""The stock client's own types judge, strictly, what we send."""

from __future__ import annotations

import dataclasses

import openai.types as theirs
import pytest
from pydantic import BaseModel

from raybatch.core.model import TERMINAL, Batch, BatchStatus, File, LineError, Tally, Usage
from raybatch.errors import BadRequest, Busy, Conflict, Corrupt, NotFound, RaybatchError
from raybatch.wire.envelope import error_answer
from raybatch.wire.openai_objects import batch_object, file_object, list_object, model_object

BATCH = Batch(
    batch_id="batch_1",
    tenant="t",
    input_file_id="file-1",
    endpoint="/v1/chat/completions",
    completion_window="24h",
    completion_window_s=86_400.0,
    created_at=1_000.75,
    output_file_id="file-o",
    error_file_id="file-e",
)


def accepted(model: type[BaseModel], shown: dict[str, object]) -> BaseModel:
    """Validated strictly, with every field the type knows written out."""
    checked = model.model_validate(shown, strict=True)
    assert {name for name in model.model_fields if name in shown} == checked.model_fields_set & set(
        model.model_fields
    )
    return checked


@pytest.mark.parametrize("status", list(BatchStatus))
def test_a_batch_in_every_status_is_what_the_stock_client_expects(status: BatchStatus) -> None:
    tally = Tally(completed=2, failed=1, usage=Usage(10, 5, 3))
    shown = batch_object(dataclasses.replace(BATCH, status=status, total=3, tally=tally, metadata={"a": "b"}))
    accepted(theirs.Batch, shown)
    assert set(shown) == set(theirs.Batch.model_fields), "explicit nulls, nothing forgotten, nothing of ours"
    files = (shown["output_file_id"], shown["error_file_id"])
    assert files == (("file-o", "file-e") if status in TERMINAL else (None, None))


def test_a_file_without_rows_is_not_shown() -> None:
    done = dataclasses.replace(BATCH, status=BatchStatus.COMPLETED)
    all_good = batch_object(dataclasses.replace(done, tally=Tally(completed=1)))
    all_bad = batch_object(dataclasses.replace(done, tally=Tally(failed=1)))
    assert (all_good["output_file_id"], all_good["error_file_id"]) == ("file-o", None)
    assert (all_bad["output_file_id"], all_bad["error_file_id"]) == (None, "file-e")


def test_a_fresh_batch_reads_as_the_wire_contract_shows_it() -> None:
    assert batch_object(BATCH) == {
        "id": "batch_1",
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "model": None,
        "errors": None,
        "input_file_id": "file-1",
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": 1_000,
        "in_progress_at": None,
        "expires_at": 87_400,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
        "metadata": None,
    }


def test_errors_are_a_list_of_at_most_a_hundred_and_our_extras_have_one_key() -> None:
    errors = tuple(LineError("invalid_url", "no", "url", line) for line in range(1, 151))
    failed = dataclasses.replace(BATCH, status=BatchStatus.FAILED, failed_at=1_002.9, errors=errors)
    shown = batch_object(failed, {"eta_s": 5})
    batch = theirs.Batch.model_validate(shown, strict=True)
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [error.line for error in batch.errors.data] == list(range(1, 101))
    assert (shown["failed_at"], shown["raybatch"]) == (1_002, {"eta_s": 5})


def test_files_models_and_lists() -> None:
    shown = file_object(File("file-1", "t", "batch", "in.jsonl", 10, 5.5))
    accepted(theirs.FileObject, shown)
    accepted(theirs.Model, model_object("smol", 7.5))
    assert theirs.Model.model_validate(model_object("smol", 7.5, {"state": "ready"}), strict=True)
    assert list_object([], has_more=False) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    page = list_object([shown, {**shown, "id": "file-2"}], has_more=True)
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("file-1", "file-2", True)
    by_index = list_object([{"index": 3}, {"index": 8}], cursor="index")
    assert (by_index["first_id"], by_index["last_id"]) == (3, 8)


@pytest.mark.parametrize(
    ("error", "status", "headers", "type_name"),
    [
        (BadRequest("m", param="p", code="c"), 400, {}, "invalid_request_error"),
        (NotFound("m", param="p", code="c"), 404, {}, "invalid_request_error"),
        (Conflict("m", param="p", code="c"), 409, {"x-should-retry": "false"}, "invalid_request_error"),
        (Busy("m", retry_after_s=7, param="p", code="c"), 429, {"Retry-After": "7"}, "rate_limit_error"),
        (Corrupt("m", param="p", code="c"), 500, {}, "server_error"),
    ],
)
def test_an_exception_becomes_an_envelope(
    error: RaybatchError, status: int, headers: dict[str, str], type_name: str
) -> None:
    expected = {"error": {"message": "m", "type": type_name, "param": "p", "code": "c"}}
    assert error_answer(error) == (status, headers, expected)
