"""OpenAI's error envelope, for the errors an engine answers with."""

from __future__ import annotations

import msgspec


def error_envelope(status: int, message: str, *, param: str | None = None, code: str | None = None) -> bytes:
    error = {"message": message, "type": _error_type(status), "param": param, "code": code}
    return msgspec.json.encode({"error": error})


def _error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    if status == 503:
        return "service_unavailable_error"
    return "invalid_request_error" if status < 500 else "server_error"
