"""One line of a batch's input file: can this batch run it, and if not, what exactly is wrong with it?

A good line is accepted by one typed decoding pass. Only a line that fails it is read again, slowly, to name
every fault; that second reading alone decides. Refuses to look at other lines: duplicates and mixed models
are intake's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Raw

from raybatch.core.model import LineError
from raybatch.wire.body_rules import BODY_RULES, INT32_MAX, body_faults, body_type, json_kind, wrong_type
from raybatch.wire.json_text import is_deeper_than, is_utf8

DEPTH_MAX = 200  #: of nested arrays and objects; deeper text kills recursive parsers further on
QUOTED_CHARACTERS_MAX = 200  #: of a client's own text in a message
BYTES_PER_TOKEN = 4
COMPLETION_TOKENS_ASSUMED = 256  #: where the request sets no limit
LENGTH_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")  #: the first one set counts

LINE_FIELDS = {"custom_id": "a string", "method": "a string", "url": "a string", "body": "an object"}

Fault = tuple[str, str, str]  #: code, message, param

_FIELDS = msgspec.json.Decoder(dict[str, Raw])


class CheckedLine(msgspec.Struct, frozen=True):
    """A request that can run."""

    custom_id: str
    model: str  #: the canonical id behind the name the request uses
    model_named: str  #: as the request writes it
    expected_tokens: int


class BadLine(msgspec.Struct, frozen=True):
    """A request that cannot run; ``errors`` is never empty."""

    custom_id: str | None
    errors: tuple[LineError, ...]


class LineChecker:
    """Checks the lines of one batch.

    ``models`` maps every served name and alias to its canonical id.
    """

    def __init__(self, endpoint: str, models: Mapping[str, str]) -> None:
        self._endpoint = endpoint
        self._models = models
        self._rules = BODY_RULES[endpoint]
        self._refused = [field.name for field in self._rules.fields if field.refused_when_true]
        good: Any = msgspec.defstruct(
            "Line",
            [
                ("custom_id", str),
                ("method", Literal["POST"]),
                ("url", Literal[endpoint]),
                ("body", body_type(endpoint)),
            ],
        )
        self._good = msgspec.json.Decoder(good)

    def check(self, line: bytes, line_number: int) -> CheckedLine | BadLine:
        """``line``: one physical line without its end; ``line_number``: from 1."""
        if not is_utf8(line) or is_deeper_than(DEPTH_MAX, line):
            return _unparseable(line_number)
        try:
            request = self._good.decode(line)
        except msgspec.ValidationError:
            return self._explain(line, line_number)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return _unparseable(line_number)
        body = request.body
        model = self._models.get(body.model)
        if model is None or any(getattr(body, name) for name in self._refused):
            return self._explain(line, line_number)
        return self._accept(request, model, len(line))

    def _explain(self, line: bytes, line_number: int) -> CheckedLine | BadLine:
        try:
            fields = _FIELDS.decode(line)
        except msgspec.ValidationError:
            return _not_an_object(line, line_number)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return _unparseable(line_number)
        errors = tuple(LineError(*fault, line_number) for fault in self._faults(fields))
        custom_id = _text_or_none(fields.get("custom_id"))
        return BadLine(custom_id, errors) if errors else self._accept_slowly(fields, len(line))

    def _faults(self, fields: Mapping[str, Raw]) -> Iterator[Fault]:
        for name, expected in LINE_FIELDS.items():
            if name not in fields:
                yield "missing_required_parameter", f"Missing required parameter: '{name}'.", name
                continue
            raw = bytes(fields[name])
            if json_kind(raw) != expected:
                yield "invalid_type", wrong_type(name, expected, raw), name
            elif name == "method":
                yield from _method_faults(msgspec.json.decode(raw))
            elif name == "url":
                yield from self._url_faults(msgspec.json.decode(raw))
            elif name == "body":
                yield from self._body_faults(_FIELDS.decode(raw))

    def _url_faults(self, url: str) -> Iterator[Fault]:
        if url != self._endpoint:
            message = "The URL provided for this request does not match the batch endpoint."
            yield "invalid_url", message, "url"

    def _body_faults(self, body: Mapping[str, Raw]) -> Iterator[Fault]:
        for fault in body_faults(self._endpoint, body):
            yield fault.code, fault.message, fault.param
        model = _text_or_none(body.get("model"))
        if model is not None and model not in self._models:
            message = f"The provided model '{quoted(model)}' is not supported by the Batch API."
            yield "model_not_found", message, "body.model"

    def _accept_slowly(self, fields: Mapping[str, Raw], length: int) -> CheckedLine:
        """Good after all: a repeated key had a wrong value first, and in JSON the last one wins."""
        last_wins = {**fields, "body": _FIELDS.decode(fields["body"])}
        request = self._good.decode(msgspec.json.encode(last_wins))
        return self._accept(request, self._models[request.body.model], length)

    def _accept(self, request: Any, model: str, length: int) -> CheckedLine:
        body = request.body
        tokens = length // BYTES_PER_TOKEN
        if self._rules.generates:
            tokens += _completion_tokens(body)
        return CheckedLine(request.custom_id, model, body.model, min(tokens, INT32_MAX))


def request_body(line: bytes) -> bytes:
    """The bytes of ``body`` exactly as the client wrote them; they are what the engine gets."""
    return bytes(_FIELDS.decode(line)["body"])


def quoted(text: str) -> str:
    """A client's text, short enough for a message."""
    return text if len(text) <= QUOTED_CHARACTERS_MAX else text[:QUOTED_CHARACTERS_MAX] + "…"


def _method_faults(method: str) -> Iterator[Fault]:
    if method != "POST":
        message = f"Invalid value: '{quoted(method)}'. Supported values are: 'POST'."
        yield "invalid_value", message, "method"


def _unparseable(line_number: int) -> BadLine:
    message = "This line is not parseable as valid JSON."
    return BadLine(None, (LineError("invalid_json_line", message, None, line_number),))


def _not_an_object(line: bytes, line_number: int) -> BadLine:
    try:
        found = json_kind(bytes(msgspec.json.decode(line, type=Raw)))
    except (msgspec.DecodeError, RecursionError):
        return _unparseable(line_number)
    message = f"Invalid type for this line: expected an object, but got {found} instead."
    return BadLine(None, (LineError("invalid_type", message, None, line_number),))


def _text_or_none(raw: Raw | None) -> str | None:
    try:
        return None if raw is None else msgspec.json.decode(raw, type=str)
    except msgspec.ValidationError:
        return None


def _completion_tokens(body: Any) -> int:
    limit = COMPLETION_TOKENS_ASSUMED
    for name in LENGTH_LIMITS:
        found = getattr(body, name, None)
        if found is not None:
            limit = max(found, 0)
            break
    return limit * max(getattr(body, "n", None) or 1, 1)
