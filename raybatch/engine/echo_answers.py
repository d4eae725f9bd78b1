"""What the echo engine says: OpenAI-shaped bodies made of the request's own words, always the same ones.

A token is a word. A request can ask for a failure, by a directive anywhere in its last user message, its
prompt or its input:

| directive                  | effect                                                                     |
|----------------------------|----------------------------------------------------------------------------|
| ``[[status=400]]``         | answered with that status and OpenAI's error envelope                      |
| ``[[status=503 times=N]]`` | so the first N times this process sees that exact text, then echoed        |
| ``[[crash]]``              | the child process exits with status 1 when the row's turn to run comes     |
| ``[[hang]]``               | the child process stays alive and never makes another step                 |

Shapes are checked just far enough to answer; it refuses to be a validator.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from raybatch.engine.envelope import error_envelope

_DIRECTIVE = re.compile(r"\[\[(?:(crash)|(hang)|status=([45]\d\d)(?: times=(\d+))?)\]\]")


class Fault(Enum):
    CRASH = "crash"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fault: Fault | None = None


class _Unfit(Exception):
    """The request's shape is wrong; the message says how."""


def answer(url: str, body: bytes, request_id: str, failures: Counter[str]) -> Answer:
    """``failures`` counts, for each exact text, the answers already failed on demand."""
    endpoint = _ENDPOINTS.get(url)
    if endpoint is None:
        return _error(404, f"The echo engine does not serve {url}; it serves {', '.join(_ENDPOINTS)}.")
    try:
        request = msgspec.json.decode(body)
        if not isinstance(request, dict):
            raise _Unfit("The body must be a JSON object.")
        words = endpoint.words(request)
        directive = _DIRECTIVE.search(words.told)
        failed = _failed_on_demand(directive, words.told, failures)
        return failed or endpoint.say(request, words, request_id, _fault(directive))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _error(400, f"The body is not valid JSON: {error}")
    except _Unfit as error:
        return _error(400, str(error))


def _failed_on_demand(directive: re.Match[str] | None, told: str, failures: Counter[str]) -> Answer | None:
    if directive is None or directive[3] is None:
        return None
    if directive[4] is not None:
        if failures[told] >= int(directive[4]):
            return None
        failures[told] += 1
    return _error(int(directive[3]), f"The request asked for status {directive[3]}.")


def _fault(directive: re.Match[str] | None) -> Fault | None:
    if directive is None or directive[3] is not None:
        return None
    return Fault.CRASH if directive[1] else Fault.HANG


def _error(status: int, message: str) -> Answer:
    return Answer(status, error_envelope(status, message))


@dataclass(frozen=True, slots=True)
class _Words:
    """``told``: the text the answer is made from. ``prompt_tokens``: words of the whole prompt."""

    told: str
    prompt_tokens: int


def _chat_words(request: dict[str, Any]) -> _Words:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _Unfit("'messages' must be a list with at least one message.")
    texts = [_message_text(message) for message in messages]
    told = next((t for m, t in zip(messages[::-1], texts[::-1], strict=True) if m.get("role") == "user"), "")
    return _Words(told, sum(len(text.split()) for text in texts))


def _message_text(message: Any) -> str:
    content = message.get("content", "") if isinstance(message, dict) else message
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if content is None:
        return ""
    if not isinstance(message, dict) or not isinstance(content, str):
        raise _Unfit("Each message must be an object whose 'content' is a string or a list of parts.")
    return content


def _prompt_words(request: dict[str, Any]) -> _Words:
    prompt = request.get("prompt")
    if not isinstance(prompt, str):
        raise _Unfit("'prompt' must be a string.")
    return _Words(prompt, len(prompt.split()))


def _input_words(request: dict[str, Any]) -> _Words:
    inputs = _inputs(request)
    return _Words(" ".join(inputs), sum(len(text.split()) for text in inputs))


def _inputs(request: dict[str, Any]) -> list[str]:
    given = request.get("input")
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, list) or not inputs or not all(isinstance(text, str) for text in inputs):
        raise _Unfit("'input' must be a string or a list of strings.")
    return inputs


def _say_chat(request: dict[str, Any], words: _Words, request_id: str, fault: Fault | None) -> Answer:
    text, tokens, finish_reason = _cut(f"echo: {words.told}", _tokens_max(request))
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return _generated(f"chatcmpl-{request_id}", "chat.completion", request, choice, words, tokens, fault)


def _say_completion(request: dict[str, Any], words: _Words, request_id: str, fault: Fault | None) -> Answer:
    text, tokens, finish_reason = _cut(f"echo: {words.told}", _tokens_max(request))
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
    return _generated(f"cmpl-{request_id}", "text_completion", request, choice, words, tokens, fault)


def _generated(
    answer_id: str,
    kind: str,
    request: dict[str, Any],
    choice: dict[str, Any],
    words: _Words,
    tokens: int,
    fault: Fault | None,
) -> Answer:
    body = {
        "id": answer_id,
        "object": kind,
        "created": 0,  # the same request gets the same bytes
        "model": request.get("model"),
        "choices": [choice],
        "usage": {
            "prompt_tokens": words.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": words.prompt_tokens + tokens,
        },
    }
    return Answer(200, msgspec.json.encode(body), words.prompt_tokens, tokens, fault)


def _say_embeddings(request: dict[str, Any], words: _Words, request_id: str, fault: Fault | None) -> Answer:
    vectors = [
        {"object": "embedding", "index": index, "embedding": _vector(text)}
        for index, text in enumerate(_inputs(request))
    ]
    usage = {"prompt_tokens": words.prompt_tokens, "total_tokens": words.prompt_tokens}
    body = {"object": "list", "data": vectors, "model": request.get("model"), "usage": usage}
    return Answer(200, msgspec.json.encode(body), words.prompt_tokens, 0, fault)


def _vector(text: str) -> list[float]:
    """Eight numbers in [-1, 1] that depend on the text alone."""
    return [byte / 127.5 - 1 for byte in hashlib.sha256(text.encode()).digest()[:8]]


def _tokens_max(request: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = request.get(name)
        if limit is None:
            continue
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise _Unfit(f"'{name}' must be a positive integer.")
        return limit
    return None


def _cut(text: str, tokens_max: int | None) -> tuple[str, int, str]:
    words = text.split()
    if tokens_max is None or len(words) <= tokens_max:
        return text, len(words), "stop"
    return " ".join(words[:tokens_max]), tokens_max, "length"


@dataclass(frozen=True, slots=True)
class _Endpoint:
    words: Callable[[dict[str, Any]], _Words]
    say: Callable[[dict[str, Any], _Words, str, Fault | None], Answer]


_ENDPOINTS = {
    "/v1/chat/completions": _Endpoint(_chat_words, _say_chat),
    "/v1/completions": _Endpoint(_prompt_words, _say_completion),
    "/v1/embeddings": _Endpoint(_input_words, _say_embeddings),
}
