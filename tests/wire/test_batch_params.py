from __future__ import annotations

import json

import pytest

from raybatch.core.model import Validation
from raybatch.errors import BadRequest
from raybatch.wire.batch_params import BatchParams, parse_batch_params

GOOD = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}


def parsed(**changes: object) -> BatchParams:
    return parse_batch_params(json.dumps({**GOOD, **changes}).encode())


def test_the_stock_clients_request_is_understood() -> None:
    assert parsed() == BatchParams("file-1", "/v1/chat/completions", "24h", 86_400.0, None, 0, None, None)
    assert parsed(validation="relaxed").validation is Validation.RELAXED
    full = parsed(
        metadata={"k": "v"}, priority=-7, output_expires_after={"anchor": "created_at", "seconds": 3_600}
    )
    assert (full.metadata, full.priority, full.output_expires_after_s) == ({"k": "v"}, -7, 3_600)


@pytest.mark.parametrize(
    ("changes", "code", "param", "words"),
    [
        (
            {"input_file_id": None},
            "missing_required_parameter",
            "input_file_id",
            "Missing required parameter",
        ),
        (
            {"input_file_id": 3},
            "invalid_type",
            "input_file_id",
            "expected a string, but got an integer instead.",
        ),
        (
            {"endpoint": "/v1/images"},
            "invalid_value",
            "endpoint",
            "'/v1/chat/completions', '/v1/completions'",
        ),
        ({"completion_window": "1h"}, "invalid_value", "completion_window", "'24h'"),
        ({"completion_window": "48h"}, "invalid_value", "completion_window", "'24h'"),
        ({"completion_window": ""}, "invalid_value", "completion_window", "'24h'"),
        ({"metadata": []}, "invalid_type", "metadata", "expected an object, but got an array instead."),
        (
            {"metadata": {"a": ["b"]}},
            "invalid_type",
            "metadata.a",
            "expected a string, but got an array instead.",
        ),
        ({"metadata": {"a": None}}, "invalid_type", "metadata.a", "got null"),
        ({"metadata": {"a": "x" * 513}}, "string_above_max_length", "metadata.a", "513"),
        ({"metadata": {"a" * 65: "x"}}, "property_name_above_max_length", "metadata", "65"),
        ({"metadata": {str(n): "" for n in range(17)}}, "object_above_max_properties", "metadata", "17"),
        ({"validation": "lenient"}, "invalid_value", "validation", "'strict', 'relaxed'"),
        ({"validation": True}, "invalid_type", "validation", "expected a string"),
        ({"priority": 101}, "integer_above_max_value", "priority", "101"),
        ({"priority": -101}, "integer_below_min_value", "priority", "-101"),
        ({"priority": True}, "invalid_type", "priority", "a boolean"),
        ({"priority": "high"}, "invalid_type", "priority", "a string"),
        ({"output_expires_after": {"seconds": 5}}, "invalid_type", "output_expires_after.anchor", "null"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
            "integer_below_min_value",
            "output_expires_after.seconds",
            "3600",
        ),
        ({"surprise": 1}, "unknown_parameter", "surprise", "'surprise'"),
    ],
)
def test_every_refusal_names_its_parameter(
    changes: dict[str, object], code: str, param: str, words: str
) -> None:
    with pytest.raises(BadRequest) as refusal:
        parsed(**changes)
    assert (refusal.value.code, refusal.value.param) == (code, param)
    assert words in refusal.value.message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"a":"\xff"}', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_batch_params(body)


def test_the_operator_may_offer_other_windows() -> None:
    body = json.dumps({**GOOD, "completion_window": "1h"}).encode()
    assert parse_batch_params(body, windows_s={"24h": 86_400.0, "1h": 3_600.0}).completion_window_s == 3_600.0
