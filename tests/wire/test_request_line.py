from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raybatch.wire.request_line import BadLine, CheckedLine, LineChecker, request_body

CHAT = "/v1/chat/completions"
MODELS = {"smol": "org/smol", "org/smol": "org/smol"}
GOOD: dict[str, Any] = {
    "custom_id": "a",
    "method": "POST",
    "url": CHAT,
    "body": {"model": "smol", "messages": [{"role": "user", "content": "hi"}]},
}
ABSENT = object()


def changed(**changes: object) -> bytes:
    """The good line with some fields changed; ``body__x`` is a field of the body."""
    line = json.loads(json.dumps(GOOD))
    for name, value in changes.items():
        target, key = (
            (line["body"], name.removeprefix("body__")) if name.startswith("body__") else (line, name)
        )
        if value is ABSENT:
            del target[key]
        else:
            target[key] = value
    return json.dumps(line).encode()


def faults(line: bytes, endpoint: str = CHAT) -> list[tuple[str, str | None]]:
    checked = LineChecker(endpoint, MODELS).check(line, 7)
    if isinstance(checked, CheckedLine):
        return []
    assert checked.errors, "a bad line always says why"
    assert all(error.line == 7 for error in checked.errors)
    return [(error.code, error.param) for error in checked.errors]


def test_a_good_line_gives_its_id_its_canonical_model_and_an_estimate() -> None:
    checked = LineChecker(CHAT, MODELS).check(changed(body__max_tokens=50, body__n=2), 1)
    assert isinstance(checked, CheckedLine)
    assert (checked.custom_id, checked.model, checked.model_named) == ("a", "org/smol", "smol")
    assert checked.expected_tokens == len(changed(body__max_tokens=50, body__n=2)) // 4 + 100


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (changed(custom_id=ABSENT), [("missing_required_parameter", "custom_id")]),
        (changed(method=ABSENT), [("missing_required_parameter", "method")]),
        (changed(url=ABSENT), [("missing_required_parameter", "url")]),
        (changed(body=ABSENT), [("missing_required_parameter", "body")]),
        (b"{}", [("missing_required_parameter", name) for name in ("custom_id", "method", "url", "body")]),
        (changed(custom_id=5), [("invalid_type", "custom_id")]),
        (changed(custom_id=None), [("invalid_type", "custom_id")]),
        (changed(body="text"), [("invalid_type", "body")]),
        (changed(body=[]), [("invalid_type", "body")]),
        (changed(method="GET"), [("invalid_value", "method")]),
        (changed(url="/v1/embeddings"), [("invalid_url", "url")]),
        (changed(url=3), [("invalid_type", "url")]),
        (changed(body__model=ABSENT), [("invalid_request", "body.model")]),
        (changed(body__model=None), [("invalid_request", "body.model")]),
        (changed(body__model=["smol"]), [("invalid_type", "body.model")]),
        (changed(body__model="gpt-9"), [("model_not_found", "body.model")]),
        (changed(body__model="../../etc/passwd"), [("model_not_found", "body.model")]),
        (changed(body__messages=ABSENT), [("invalid_request", "body.messages")]),
        (changed(body__messages="hi"), [("invalid_type", "body.messages")]),
        (changed(body__messages=["hi"]), [("invalid_type", "body.messages")]),
        (changed(body__stream=True), [("streaming_unsupported", "body.stream")]),
        (changed(body__stream="yes"), [("invalid_type", "body.stream")]),
        (
            changed(custom_id=ABSENT, url="/x", body__model="gpt-9", body__stream=True),
            [
                ("missing_required_parameter", "custom_id"),
                ("invalid_url", "url"),
                ("streaming_unsupported", "body.stream"),
                ("model_not_found", "body.model"),
            ],
        ),
        (b"[1]", [("invalid_type", None)]),
        (b'"text"', [("invalid_type", None)]),
        (b"null", [("invalid_type", None)]),
    ],
)
def test_every_fault_of_a_line_is_named(line: bytes, expected: list[tuple[str, str | None]]) -> None:
    assert faults(line) == expected


def nested(depth: int, opening: str = '{"a":', innermost: str = "1", closing: str = "}") -> bytes:
    return changed(body__user="@").replace(b'"@"', (opening * depth + innermost + closing * depth).encode())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json",
        b"{",
        changed()[:-1],
        changed() + b"}",
        changed() + b"\x00",
        b"\xef\xbb\xbf" + changed(),
        changed().decode().encode("utf-16"),
        changed(body__x="@").replace(b'"@"', b"NaN"),
        changed(body__x="@").replace(b'"@"', b"Infinity"),
        changed(body__x="@").replace(b'"@"', b"-Infinity"),
        changed(body__x="@").replace(b'"@"', b"01"),
        changed(body__x="@").replace(b"@", b"\x00"),
        changed(body__x="@").replace(b"@", b"\xff\xfe"),
        changed(body__x="@").replace(b"@", b"\xed\xa0\x80"),
        changed(body__x="\ud800"),
        changed(body__x="\udc00 alone"),
        changed(custom_id="\ud83d"),
        nested(199),
        nested(100_000),
        nested(100_000, "[", "", "]"),
        nested(100_000, closing=""),
    ],
    ids=lambda line: repr(line[:12]),
)
def test_what_is_not_json_is_named_as_such(line: bytes) -> None:
    assert faults(line) == [("invalid_json_line", None)]


@pytest.mark.parametrize(
    "line",
    [
        nested(198),
        changed(body__user="[" * 5_000 + '\\"{' * 5_000),
        changed(body__user=[[0]] * 5_000),
        changed(body__seed=10**300),
        changed(body__user="@").replace(b'"@"', b"1e999"),
        changed(body__stream=False),
        changed(body__cache_salt=None, body__return_mm_kwargs=False),
        changed(body__n=None),
        changed(custom_id=""),
        changed(custom_id="x" * 10**6),
        changed(custom_id="\u0000\u2028\U0001f600"),
        changed(body__user="\U0001f600"),
        b'{"body":5,"custom_id":1,' + changed()[1:],
        changed().replace(b'"model"', b'"stream":"x","stream":null,"model":7,"model"'),
        changed().replace(b'"model"', b'"mod\\u0065l"'),
        b" \t" + changed() + b" \r",
    ],
    ids=lambda line: repr(line[:12]),
)
def test_odd_but_good_lines_are_accepted(line: bytes) -> None:
    assert faults(line) == []


def test_streaming_hidden_behind_a_repeated_or_escaped_key_is_found() -> None:
    repeated = changed().replace(b'"model"', b'"stream":false,"stream":true,"model"')
    escaped = changed().replace(b'"model"', b'"str\\u0065am":true,"model"')
    assert faults(repeated) == faults(escaped) == [("streaming_unsupported", "body.stream")]


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        ("/v1/completions", {"model": "smol", "prompt": "x"}, []),
        ("/v1/completions", {"model": "smol", "prompt": [1, 2]}, []),
        ("/v1/completions", {"model": "smol"}, [("invalid_request", "body.prompt")]),
        ("/v1/embeddings", {"model": "smol", "input": ["x", "y"]}, []),
        ("/v1/embeddings", {"model": "smol", "input": {"a": 1}}, [("invalid_type", "body.input")]),
        ("/v1/responses", {"model": "smol", "input": "x"}, []),
        (
            "/v1/responses",
            {"model": "smol", "stream": True},
            [("invalid_request", "body.input"), ("streaming_unsupported", "body.stream")],
        ),
        ("/v1/score", {"model": "smol", "text_1": "a", "text_2": ["b"]}, []),
        ("/v1/rerank", {}, [("invalid_request", "body.model")]),
    ],
)
def test_each_endpoint_asks_for_its_own_fields(
    endpoint: str, body: dict[str, object], expected: list[tuple[str, str]]
) -> None:
    assert faults(changed(url=endpoint, body=body), endpoint) == expected


def test_a_message_quotes_a_clients_text_only_in_part() -> None:
    checked = LineChecker(CHAT, MODELS).check(changed(body__model="m" * 10**6), 1)
    assert isinstance(checked, BadLine)
    assert len(checked.errors[0].message) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(body=st.dictionaries(st.text(), json_values), custom_id=st.text(), ascii_only=st.booleans())
def test_any_body_and_any_custom_id_survive_byte_for_byte(
    body: dict[str, object], custom_id: str, ascii_only: bool
) -> None:
    body = {"model": "smol", "messages": [], "user": body}
    raw = json.dumps(body, ensure_ascii=ascii_only).encode()
    head = json.dumps({**GOOD, "custom_id": custom_id, "body": "@"}, ensure_ascii=ascii_only).encode()
    line = head.replace(b'"body": "@"', b'"body": ' + raw)
    checked = LineChecker(CHAT, MODELS).check(line, 1)
    assert isinstance(checked, CheckedLine)
    assert checked.custom_id == custom_id
    assert request_body(line) == raw


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(min_value=0, max_value=200))
@example(b"\xff", 20)
def test_no_bytes_make_the_check_fail_otherwise_than_with_an_error(noise: bytes, place: int) -> None:
    line = changed()[:place] + noise + changed()[place:]
    checked = LineChecker(CHAT, MODELS).check(line, 1)
    try:
        json.loads(line)
    except ValueError:
        assert isinstance(checked, BadLine)
        assert checked.errors[0].code == "invalid_json_line"
