"""What vLLM's answers mean: which are results, which only look like results, and errors in OpenAI's words.

| vLLM answers                              | reply                                                        |
|-------------------------------------------|--------------------------------------------------------------|
| 2xx with a body                           | 200 and the body, byte for byte                              |
| 2xx, ``finish_reason`` "abort"            | 503: the request was cut off, its text is not the answer     |
| 2xx with the body ``null`` or none        | 503: the connection was gone                                 |
| 400 "Client disconnected"                 | 503: the same, seen from another place                       |
| an event stream                           | 400: a batch has no use for one                              |
| anything else                             | its status, the message in OpenAI's envelope                 |
"""

from __future__ import annotations

from typing import Any

import msgspec

from raybatch.engine.contract import EngineReply
from raybatch.engine.envelope import error_envelope

# Inside a JSON string the quotes would be escaped, so only the field itself matches.
_ABORTED = b'"finish_reason":"abort"'
_CUT_OFF = "The request was cut off before it was answered; it may be asked again."
_MESSAGE_CHARS_MAX = 1000
_CODES = {
    (400, "maximum context length"): "context_length_exceeded",
    (404, "model"): "model_not_found",
}


def reply_from_vllm(status: int, body: bytes, *, streamed: bool = False) -> EngineReply:
    if streamed:
        return _error(400, "Streaming is not supported in a batch.", param="stream")
    if 200 <= status < 300:
        cut_off = body in (b"", b"null") or _ABORTED in body
        return _error(503, _CUT_OFF) if cut_off else EngineReply(200, body)
    message, param = _message_of(body)
    if status == 400 and "client disconnected" in message.lower():
        return _error(503, _CUT_OFF)
    code = next((code for (at, words), code in _CODES.items() if at == status and words in message), None)
    return _error(status if status >= 400 else 500, message, param=param, code=code)


def _message_of(body: bytes) -> tuple[str, str | None]:
    """The message, cut short, and the parameter; whatever shape the body has."""
    try:
        decoded: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        decoded = None
    error = decoded.get("error", decoded) if isinstance(decoded, dict) else {}
    if not isinstance(error, dict):
        error = {"message": error}
    message = (
        error.get("message") or error.get("detail") or "The engine answered with an error and no message."
    )
    param = error.get("param")
    text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
    shortened = text if len(text) <= _MESSAGE_CHARS_MAX else text[: _MESSAGE_CHARS_MAX - 1] + "…"
    return shortened, param if isinstance(param, str) else None


def _error(status: int, message: str, *, param: str | None = None, code: str | None = None) -> EngineReply:
    return EngineReply(status, error_envelope(status, message, param=param, code=code))
