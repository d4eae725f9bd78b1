"""Uploads of the suite: small, of any model, and the same for every client."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]
CHAT: Final = "/v1/chat/completions"

#: What every engine answers with 400: the echo engine is told to, and no other takes such a temperature.
REFUSED: Final[Json] = {"messages": [{"role": "user", "content": "[[status=400]]"}], "temperature": -1.0}


def chat(model: str, custom_id: str, told: str = "Say hello.", **body: Any) -> Json:
    messages = [{"role": "user", "content": told}]
    return line(custom_id, CHAT, {"model": model, "messages": messages, "max_tokens": 16, **body})


def line(custom_id: str, url: str, body: Json) -> Json:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def chats(model: str, rows: int) -> bytes:
    """Ids in an order that is not the alphabet's."""
    return jsonl(chat(model, f"row-{rows - number}", f"Say {number}.") for number in range(rows))


def jsonl(lines: Iterable[Json]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def read(content: bytes) -> list[Json]:
    """Of a JSONL file."""
    return [json.loads(text) for text in content.splitlines()]


def custom_ids(content: bytes) -> list[str]:
    return [one["custom_id"] for one in read(content)]


@dataclass(frozen=True, slots=True)
class BadLine:
    content: bytes
    code: str
    message: str
    param: str | None


def bad_lines(model: str) -> list[BadLine]:
    """One for each reason that a line can be no request, beside a good line "a"."""

    def without(name: str) -> bytes:
        return jsonl([{key: value for key, value in chat(model, f"no {name}").items() if key != name}])

    def body(**changed: Any) -> bytes:
        made = chat(model, str(changed))
        made["body"] = {name: value for name, value in (made["body"] | changed).items() if value is not None}
        return jsonl([made])

    missing = (
        BadLine(without(name), "missing_required_parameter", f"Missing required parameter: '{name}'.", name)
        for name in ("custom_id", "method", "url", "body")
    )
    elsewhere = jsonl([chat(model, "elsewhere") | {"url": "/v1/embeddings"}])
    return [
        BadLine(b"{not json\n", "invalid_json_line", "This line is not parseable as valid JSON.", None),
        *missing,
        BadLine(body(model=None), "invalid_request", "Model parameter is required.", "body.model"),
        BadLine(body(messages=None), "invalid_request", "Messages parameter is required.", "body.messages"),
        BadLine(
            elsewhere,
            "invalid_url",
            "The URL provided for this request does not match the batch endpoint.",
            "url",
        ),
        BadLine(
            body(stream=True),
            "streaming_unsupported",
            "Chat Completions: Streaming is not supported in the Batch API.",
            "body.stream",
        ),
        BadLine(
            body(model="nobody/serves-this"),
            "model_not_found",
            "The provided model 'nobody/serves-this' is not supported by the Batch API.",
            "body.model",
        ),
        BadLine(
            jsonl([chat(model, "a")]),
            "duplicate_custom_id",
            "The custom_id 'a' for this request is a duplicate of another request. "
            "The custom_id parameter must be unique for each request in a batch.",
            "custom_id",
        ),
    ]
