"""The columns of a result row that come out of an engine's reply: text, finish reason, model, tokens, error.

Reads every endpoint's reply with one loose shape. Refuses to fail on a reply it does not understand: such a
row has empty columns and its line is as good as any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from msgspec import Raw

from raybatch.core.model import Usage


@dataclass(frozen=True, slots=True)
class ReplyColumns:
    """None where the reply has no such thing; tokens are 0 then."""

    model: str | None = None
    text: str | None = None
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    error_code: str | None = None
    error_message: str | None = None


def reply_columns(status: int, body: bytes) -> ReplyColumns | None:
    """None when ``body`` is not JSON."""
    try:
        return _error_columns(body) if status >= 400 else _success_columns(body)
    except msgspec.ValidationError:
        return _shapeless(status, body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


class _TokenDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _ReplyUsage(msgspec.Struct):
    """Chat and completions say prompt and completion, responses say input and output."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _TokenDetails | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _TokenDetails | None = None


class _ChatMessage(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _ChatMessage | None = None
    text: str | None = None
    finish_reason: str | None = None


class _OutputContent(msgspec.Struct):
    type: str | None = None
    text: str | None = None


class _OutputItem(msgspec.Struct):
    type: str | None = None
    content: list[_OutputContent] | None = None


class _IncompleteDetails(msgspec.Struct):
    reason: str | None = None


class _Reply(msgspec.Struct):
    model: str | None = None
    usage: _ReplyUsage | None = None
    choices: list[_Choice] | None = None
    output: list[_OutputItem] | None = None
    status: str | None = None
    incomplete_details: _IncompleteDetails | None = None


class _Error(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None


class _ErrorReply(msgspec.Struct):
    error: _Error


_SUCCESS = msgspec.json.Decoder(_Reply)
_FAILURE = msgspec.json.Decoder(_ErrorReply)


def _success_columns(body: bytes) -> ReplyColumns:
    reply = _SUCCESS.decode(body)
    text, finish_reason = _first_choice(reply) if reply.choices else _responses_output(reply)
    return ReplyColumns(reply.model, text, finish_reason, _usage(reply.usage))


def _first_choice(reply: _Reply) -> tuple[str | None, str | None]:
    choice = (reply.choices or [_Choice()])[0]
    return choice.message.content if choice.message else choice.text, choice.finish_reason


def _responses_output(reply: _Reply) -> tuple[str | None, str | None]:
    texts = [
        content.text
        for item in reply.output or ()
        if item.type == "message"
        for content in item.content or ()
        if content.type == "output_text" and content.text is not None
    ]
    reason = reply.incomplete_details.reason if reply.incomplete_details else None
    return "".join(texts) if texts else None, reason or reply.status


def _usage(usage: _ReplyUsage | None) -> Usage:
    if usage is None:
        return Usage()
    details = usage.prompt_tokens_details or usage.input_tokens_details
    return Usage(
        prompt_tokens=usage.prompt_tokens or usage.input_tokens or 0,
        completion_tokens=usage.completion_tokens or usage.output_tokens or 0,
        cached_tokens=(details.cached_tokens or 0) if details else 0,
    )


def _error_columns(body: bytes) -> ReplyColumns:
    error = _FAILURE.decode(body).error
    code = error.type if error.code is None else str(error.code)
    return ReplyColumns(error_code=code, error_message=error.message)


def _shapeless(status: int, body: bytes) -> ReplyColumns | None:
    try:
        msgspec.json.decode(body, type=Raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    return ReplyColumns(error_code=f"http_{status}") if status >= 400 else ReplyColumns()
