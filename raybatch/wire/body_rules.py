"""What each endpoint asks of a request body before an engine sees it: one table.

vLLM is fail-stop, so a field that can kill an engine is refused here, with the row in hand that carries it.
What a field *means* is the engine's business: whatever the table does not name passes unread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Raw

INT32_MAX = 2**31 - 1
CHOICES_MAX = 16  #: each one is a sequence the engine runs


class AnyObject(msgspec.Struct):
    """A JSON object whose content is not looked at."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A JSON type, as msgspec checks it and as a message names it."""

    expected: str
    type: Any


TEXT = Kind("a string", str)
BOOLEAN = Kind("a boolean", bool)
INTEGER = Kind("an integer", int)
OBJECTS = Kind("an array of objects", list[AnyObject])
TEXT_OR_ARRAY = Kind("a string or an array", str | list[Raw])


@dataclass(frozen=True, slots=True)
class BodyField:
    name: str
    kind: Kind
    required: bool = False
    most: int | None = None  #: largest accepted integer
    refused_when_true: tuple[str, str] | None = None  #: code and message

    @property
    def type(self) -> Any:
        """The msgspec type that holds exactly the values this field accepts, null excepted."""
        return self.kind.type if self.most is None else Annotated[self.kind.type, msgspec.Meta(le=self.most)]


@dataclass(frozen=True, slots=True)
class BodyRules:
    fields: tuple[BodyField, ...]
    generates: bool  #: answers with tokens of its own, so that a decode length is worth estimating


def _streaming(endpoint_title: str) -> BodyField:
    message = f"{endpoint_title}: Streaming is not supported in the Batch API."
    return BodyField("stream", BOOLEAN, refused_when_true=("streaming_unsupported", message))


_MODEL = BodyField("model", TEXT, required=True)
_N = BodyField("n", INTEGER, most=CHOICES_MAX)
_BEST_OF = BodyField("best_of", INTEGER, most=CHOICES_MAX)
_MAX_TOKENS = BodyField("max_tokens", INTEGER, most=INT32_MAX)
_MAX_COMPLETION_TOKENS = BodyField("max_completion_tokens", INTEGER, most=INT32_MAX)
_MAX_OUTPUT_TOKENS = BodyField("max_output_tokens", INTEGER, most=INT32_MAX)
_INPUT = BodyField("input", TEXT_OR_ARRAY, required=True)

BODY_RULES: Mapping[str, BodyRules] = {
    "/v1/chat/completions": BodyRules(
        (
            _MODEL,
            BodyField("messages", OBJECTS, required=True),
            _streaming("Chat Completions"),
            _N,
            _BEST_OF,
            _MAX_TOKENS,
            _MAX_COMPLETION_TOKENS,
        ),
        generates=True,
    ),
    "/v1/completions": BodyRules(
        (
            _MODEL,
            BodyField("prompt", TEXT_OR_ARRAY, required=True),
            _streaming("Completions"),
            _N,
            _BEST_OF,
            _MAX_TOKENS,
        ),
        generates=True,
    ),
    "/v1/responses": BodyRules((_MODEL, _INPUT, _streaming("Responses"), _MAX_OUTPUT_TOKENS), generates=True),
    "/v1/embeddings": BodyRules((_MODEL, _INPUT), generates=False),
    "/v1/score": BodyRules((_MODEL,), generates=False),
    "/v1/rerank": BodyRules((_MODEL,), generates=False),
    "/v1/classify": BodyRules((_MODEL,), generates=False),
    "/v1/pooling": BodyRules((_MODEL,), generates=False),
}

ENDPOINTS = tuple(BODY_RULES)

_KINDS = {
    b'"': "a string",
    b"{": "an object",
    b"[": "an array",
    b"t": "a boolean",
    b"f": "a boolean",
    b"n": "null",
}  #: by the first byte of the JSON text; anything else is a number


class BodyFault(msgspec.Struct, frozen=True):
    code: str
    message: str
    param: str


def body_type(endpoint: str) -> type[msgspec.Struct]:
    """A struct that decodes no body ``body_faults`` would find fault with, a true ``stream`` excepted."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        (field.name, field.type) if field.required else (field.name, field.type | None, None)
        for field in BODY_RULES[endpoint].fields
    ]
    return msgspec.defstruct("Body", fields)


def body_faults(endpoint: str, body: Mapping[str, Raw]) -> Iterator[BodyFault]:
    """Everything the table finds wrong, in the table's order."""
    for field in BODY_RULES[endpoint].fields:
        raw = bytes(body.get(field.name, b"null"))
        fault = _field_fault(field, raw)
        if fault is not None:
            yield BodyFault(*fault, f"body.{field.name}")


def _field_fault(field: BodyField, raw: bytes) -> tuple[str, str] | None:
    if raw == b"null":
        absent = "invalid_request", f"{field.name.capitalize()} parameter is required."
        return absent if field.required else None
    try:
        value = msgspec.json.decode(raw, type=field.type)
    except msgspec.ValidationError:
        return _wrong_value(field, raw)
    return field.refused_when_true if value is True else None


def _wrong_value(field: BodyField, raw: bytes) -> tuple[str, str]:
    digits = raw.removeprefix(b"-")
    if field.most is not None and digits.isdigit():
        found = raw.decode() if len(raw) <= 20 else f"an integer of {len(digits)} digits"
        expected = f"expected an integer of at most {field.most}"
        return "invalid_value", f"Invalid 'body.{field.name}': {expected}, but got {found} instead."
    return "invalid_type", wrong_type(f"body.{field.name}", field.kind.expected, raw)


def wrong_type(name: str, expected: str, raw: bytes) -> str:
    """``raw``: the JSON text that was found, without white space around it."""
    return f"Invalid type for '{name}': expected {expected}, but got {json_kind(raw)} instead."


def json_kind(raw: bytes) -> str:
    """What JSON text is, with its article."""
    number = "a decimal number" if set(b".eE") & set(raw[:400]) else "an integer"
    return _KINDS.get(raw[:1], number)
