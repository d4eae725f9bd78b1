from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybatch.core.model import ResultRow
from raybatch.wire.result_line import Origin, Unanswered, answered_row, refused_row, unanswered_row


def origin(custom_id: str | None = "a") -> Origin:
    return Origin(
        position=3, index=5, custom_id=custom_id, attempt=2, engine_id="e1", started_at=1.0, finished_at=2.5
    )


def answered(status: int, body: bytes, custom_id: str | None = "a") -> ResultRow:
    return answered_row(origin(custom_id), status, body, row_id="batch_req_1", request_id="req_1")


CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "model": "smol",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 8},
    },
}


def test_an_answer_is_spliced_in_byte_for_byte() -> None:
    body = b'{"model": "smol",  "choices":[], "x":1.50, "y":"\\u00e9\xc3\xa9", "z":1E+2}'
    assert answered(200, body).line == (
        b'{"id":"batch_req_1","custom_id":"a","response":{"status_code":200,"request_id":"req_1","body":'
        + body
        + b'},"error":null}'
    )


def test_the_origin_is_carried_into_the_row() -> None:
    row = answered(200, json.dumps(CHAT).encode())
    assert (row.position, row.index, row.custom_id, row.attempt, row.engine_id) == (3, 5, "a", 2, "e1")
    assert (row.started_at, row.finished_at) == (1.0, 2.5)


COLUMNS = ("model", "text", "finish_reason", "prompt_tokens", "completion_tokens", "cached_tokens")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (CHAT, ("smol", "Paris.", "stop", 9, 4, 8)),
        (
            {**CHAT, "choices": [{"message": {"content": None}, "finish_reason": "tool_calls"}]},
            ("smol", None, "tool_calls", 9, 4, 8),
        ),
        (
            {"model": "smol", "choices": [{"text": "one", "finish_reason": "length"}, {"text": "two"}]},
            ("smol", "one", "length", 0, 0, 0),
        ),
        (
            {
                "model": "smol",
                "status": "completed",
                "output": [
                    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
                    {"type": "message", "content": [{"type": "output_text", "text": "4"}]},
                ],
                "usage": {
                    "input_tokens": 5,
                    "output_tokens": 1,
                    "input_tokens_details": {"cached_tokens": 2},
                },
            },
            ("smol", "4", "completed", 5, 1, 2),
        ),
        (
            {"model": "smol", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            ("smol", None, "max_output_tokens", 0, 0, 0),
        ),
        (
            {
                "model": "smol",
                "data": [{"embedding": [0.1]}],
                "usage": {"prompt_tokens": 3, "total_tokens": 3},
            },
            ("smol", None, None, 3, 0, 0),
        ),
        ({"choices": "not a list", "model": 5}, (None, None, None, 0, 0, 0)),
        ([1, 2], (None, None, None, 0, 0, 0)),
    ],
)
def test_columns_of_an_answer(body: object, expected: tuple[object, ...]) -> None:
    row = answered(200, json.dumps(body).encode())
    assert tuple(getattr(row, name) for name in COLUMNS) == expected
    assert row.completed
    assert row.error_code is None


def test_an_http_error_keeps_its_body_and_gives_error_columns() -> None:
    body = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'
    row = answered(400, body)
    assert (row.status_code, row.error_code, row.error_message) == (400, "400", "too long")
    assert not row.completed
    assert json.loads(row.line)["response"] == {
        "status_code": 400,
        "request_id": "req_1",
        "body": json.loads(body),
    }


def test_an_error_without_a_code_is_known_by_its_type() -> None:
    row = answered(400, b'{"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}')
    assert row.error_code == "invalid_request_error"


@pytest.mark.parametrize("body", [b"<html>oops", b"", b'{"a":"\xff"}', b'{"choices":[', b"[" * 100_000])
def test_an_answer_that_is_not_json_becomes_a_server_error(body: bytes) -> None:
    row = answered(200, body)
    assert (row.status_code, row.error_code) == (500, "invalid_engine_answer")
    assert json.loads(row.line)["response"]["body"]["error"]["type"] == "server_error"


def test_an_answer_laid_out_over_lines_becomes_one_line_with_the_same_values() -> None:
    row = answered(200, json.dumps(CHAT, indent=2).replace("\n", "\r\n").encode())
    assert b"\n" not in row.line
    assert b"\r" not in row.line
    assert json.loads(row.line)["response"]["body"] == CHAT


@pytest.mark.parametrize("reason", list(Unanswered))
def test_a_request_without_an_answer_has_an_error_and_no_response(reason: Unanswered) -> None:
    row = unanswered_row(origin(None), reason, row_id="batch_req_2")
    code, message = reason.value
    assert json.loads(row.line) == {
        "id": "batch_req_2",
        "custom_id": None,
        "response": None,
        "error": {"code": code, "message": message},
    }
    assert (row.status_code, row.error_code, row.error_message, row.completed) == (None, code, message, False)


def test_a_refused_line_says_what_intake_found_and_where() -> None:
    row = refused_row(origin(None), "invalid_json_line", "Not JSON.", 7, row_id="batch_req_3")
    message = "Not JSON. (line 7 of the input file)"
    assert json.loads(row.line)["error"] == {"code": "invalid_json_line", "message": message, "line": 7}
    assert (row.custom_id, row.error_message) == (None, message)


@settings(deadline=None)
@given(custom_id=st.none() | st.text(), content=st.text(), ascii_only=st.booleans())
def test_any_unicode_comes_back_unchanged_on_one_line(
    custom_id: str | None, content: str, ascii_only: bool
) -> None:
    reply = {"choices": [{"message": {"content": content}}]}
    row = answered(200, json.dumps(reply, ensure_ascii=ascii_only).encode(), custom_id)
    assert row.line.count(b"\n") == 0
    line = json.loads(row.line)
    assert line["custom_id"] == row.custom_id == custom_id
    assert line["response"]["body"] == reply
    assert row.text == content
