"""What one finished request leaves behind: its line of the output or error file, and the same as columns.

The engine's answer goes into the line byte for byte. Refuses to judge it: whether to try again was decided
before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from raybatch.core.model import ResultRow
from raybatch.wire.envelope import envelope
from raybatch.wire.json_text import is_utf8
from raybatch.wire.reply_columns import ReplyColumns, reply_columns
from raybatch.wire.request_line import quoted

ANSWERED_LINE = (
    b'{"id":%s,"custom_id":%s,"response":{"status_code":%d,"request_id":%s,"body":%s},"error":null}'
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Which request this was, and who ran it when: carried into its row unchanged."""

    position: int
    index: int
    custom_id: str | None
    attempt: int  #: from 1
    engine_id: str
    started_at: float
    finished_at: float


class Unanswered(Enum):
    """Why a request never got an answer; each has its code and message in the error file."""

    CANCELLED = ("batch_cancelled", "This request was not executed before the batch was cancelled.")
    EXPIRED = (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    )
    TIMED_OUT = ("request_timeout", "This request was not answered within its time limit.")
    CRASHED_ENGINE = (
        "engine_crash",
        "The engine crashed each time it ran this request alone, so it will not be run again.",
    )


def answered_row(origin: Origin, status: int, body: bytes, *, row_id: str, request_id: str) -> ResultRow:
    """The row of a request the engine answered, with success or with an HTTP error.

    ``row_id``: ``batch_req_…``; ``request_id``: ``req_…``. An answer that is not JSON becomes a 500.
    """
    columns = reply_columns(status, body) if is_utf8(body) else None
    if columns is None:
        status, body, columns = _not_json(status, body)
    line = ANSWERED_LINE % (
        msgspec.json.encode(row_id),
        msgspec.json.encode(origin.custom_id),
        status,
        msgspec.json.encode(request_id),
        _on_one_line(body),
    )
    return _row(origin, line, status, columns)


def unanswered_row(origin: Origin, reason: Unanswered, *, row_id: str) -> ResultRow:
    """The row of a request that got no answer at all."""
    code, message = reason.value
    return _errored_row(origin, {"code": code, "message": message}, row_id)


def refused_row(origin: Origin, code: str, message: str, line_number: int, *, row_id: str) -> ResultRow:
    """The row of a request that was never put to an engine, because of what intake found in its line.

    ``line_number``: physical line of the upload, from 1. The message names it, too: tables show only that.
    """
    message = f"{message} (line {line_number} of the input file)"
    return _errored_row(origin, {"code": code, "message": message, "line": line_number}, row_id)


def _errored_row(origin: Origin, error: dict[str, Any], row_id: str) -> ResultRow:
    line = msgspec.json.encode(
        {"id": row_id, "custom_id": origin.custom_id, "response": None, "error": error}
    )
    columns = ReplyColumns(error_code=error["code"], error_message=error["message"])
    return _row(origin, line, None, columns)


def _not_json(status: int, body: bytes) -> tuple[int, bytes, ReplyColumns]:
    status = max(status, 500)
    text = quoted(body.decode(errors="replace"))
    message = f"The engine's answer is not JSON: {text}"
    code = "invalid_engine_answer"
    return (
        status,
        msgspec.json.encode(envelope(message, "server_error", code=code)),
        ReplyColumns(error_code=code, error_message=message),
    )


def _on_one_line(body: bytes) -> bytes:
    """``body`` itself, unless it was laid out over several lines; then the same JSON without white space."""
    if b"\n" in body or b"\r" in body:
        return msgspec.json.format(body, indent=-1)
    return body


def _row(origin: Origin, line: bytes, status: int | None, columns: ReplyColumns) -> ResultRow:
    return ResultRow(
        position=origin.position,
        index=origin.index,
        custom_id=origin.custom_id,
        status_code=status,
        error_code=columns.error_code,
        error_message=columns.error_message,
        model=columns.model,
        text=columns.text,
        finish_reason=columns.finish_reason,
        prompt_tokens=columns.usage.prompt_tokens,
        completion_tokens=columns.usage.completion_tokens,
        cached_tokens=columns.usage.cached_tokens,
        line=line,
        attempt=origin.attempt,
        engine_id=origin.engine_id,
        started_at=origin.started_at,
        finished_at=origin.finished_at,
    )
