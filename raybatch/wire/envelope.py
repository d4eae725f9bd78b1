"""OpenAI's error envelope: how every exception of ours looks to a client."""

from __future__ import annotations

from typing import NamedTuple

from raybatch.errors import Conflict, RaybatchError, Refused


class ErrorAnswer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: dict[str, object]


def error_answer(error: RaybatchError) -> ErrorAnswer:
    headers = {}
    if isinstance(error, Refused):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Conflict):
        headers["x-should-retry"] = "false"  # the stock client retries a 409 otherwise
    body = envelope(error.message, error.type, param=error.param, code=error.code)
    return ErrorAnswer(error.status, headers, body)


def envelope(
    message: str, type_name: str, *, param: str | None = None, code: str | None = None
) -> dict[str, object]:
    return {"error": {"message": message, "type": type_name, "param": param, "code": code}}
