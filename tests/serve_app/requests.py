"""Input files for the tests, and what must come back for them."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.serve_app.local_scheduler import answer_to

CHAT: Final = "/v1/chat/completions"


def request(custom_id: str, **body: Any) -> dict[str, Any]:
    chat = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": chat | body}


def jsonl(*requests: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in requests)


def some(count: int) -> bytes:
    return jsonl(*(request(f"r{i}") for i in range(count)))


def output_line(index: int, line: dict[str, Any]) -> bytes:
    """The line of the output or error file, byte for byte."""
    status = 400 if line["body"].get("fail") else 200
    body = json.dumps(answer_to(line["body"]), separators=(",", ":"))
    return (
        f'{{"id":"batch_req_{index}","custom_id":"{line["custom_id"]}",'
        f'"response":{{"status_code":{status},"request_id":"req_{index}","body":{body}}},"error":null}}\n'
    ).encode()
