"""One line of a batch's input file: can this batch run it, and if not, what exactly is wrong with it?

A good line is accepted by one typed decoding pass. Only a line that fails it is read again, slowly, to name
every fault; that second reading alone decides. Refuses to look at other lines: duplicates and mixed models
are intake's.

Two sorts of fault: of structure, for which OpenAI fails the whole batch; and those of a body that an engine
must not see, which cost only their own line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Raw

from raybatch.core.model import LineError
from raybatch.wire.body_check import BodyChecker, BodyFault, wrong_type
from raybatch.wire.body_rules import INT32_MAX, json_kind, rules_for, vllm_version
from raybatch.wire.grammar_check import GrammarChecker
from raybatch.wire.json_text import is_deeper_than, is_utf8
from raybatch.wire.server_terms import ServerTerms

DEPTH_MAX = 200  #: of nested arrays and objects; deeper text kills recursive parsers further on
QUOTED_CHARACTERS_MAX = 200  #: of a client's own text in a message
BYTES_PER_TOKEN = 4
COMPLETION_TOKENS_ASSUMED = 256  #: where the request sets no limit
LENGTH_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")  #: the first one set counts

LINE_FIELDS = {"custom_id": "a string", "method": "a string", "url": "a string", "body": "an object"}

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
    structural: bool = True  #: a strict batch fails for it; otherwise only this line does


class LineChecker:
    """Checks the lines of one batch. ``close`` it.

    ``models`` maps every served name and alias to its canonical id; ``media_domains`` are the hosts from
    which its engines may load media.
    """

    def __init__(
        self, endpoint: str, models: Mapping[str, str], media_domains: frozenset[str] = frozenset()
    ) -> None:
        self._endpoint = endpoint
        self._models = models
        self._grammars = GrammarChecker()
        rules = rules_for(endpoint, vllm_version())
        self._generates = rules.generates
        self._body = BodyChecker(rules, ServerTerms(media_domains, self._grammars.problem))
        self._limits = [name for name in LENGTH_LIMITS if name in self._body.fast_type.__struct_fields__]
        good: Any = msgspec.defstruct(
            "Line",
            [
                ("custom_id", str),
                ("method", Literal["POST"]),
                ("url", Literal[endpoint]),
                ("body", self._body.fast_type),
            ],
        )
        self._good = msgspec.json.Decoder(good)

    def close(self) -> None:
        self._grammars.close()

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
        if model is None or not self._body.passes(body):
            return self._explain(line, line_number)
        tokens = self._expected_tokens(len(line), self._limit(body), getattr(body, "n", None))
        return CheckedLine(request.custom_id, model, body.model, tokens)

    def _limit(self, body: Any) -> int | None:
        for name in self._limits:
            if found := getattr(body, name):
                return int(found)
        return None

    def _explain(self, line: bytes, line_number: int) -> CheckedLine | BadLine:
        try:
            fields = _FIELDS.decode(line)
        except msgspec.ValidationError:
            return _not_an_object(line, line_number)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return _unparseable(line_number)
        custom_id = _text_or_none(fields.get("custom_id"))
        faults = list(self._faults(fields))
        if not faults:
            return self._accept_slowly(fields, len(line))
        errors = tuple(LineError(fault.code, fault.message, fault.param, line_number) for fault in faults)
        return BadLine(custom_id, errors, any(fault.structural for fault in faults))

    def _faults(self, fields: Mapping[str, Raw]) -> Iterator[BodyFault]:
        for name, expected in LINE_FIELDS.items():
            if name not in fields:
                message = f"Missing required parameter: '{name}'."
                yield BodyFault("missing_required_parameter", message, name)
                continue
            raw = bytes(fields[name])
            if json_kind(raw) != expected:
                yield BodyFault("invalid_type", wrong_type(name, expected, raw), name)
            elif name == "method":
                yield from _method_faults(msgspec.json.decode(raw))
            elif name == "url":
                yield from self._url_faults(msgspec.json.decode(raw))
            elif name == "body":
                yield from self._body_faults(_FIELDS.decode(raw))

    def _url_faults(self, url: str) -> Iterator[BodyFault]:
        if url != self._endpoint:
            message = "The URL provided for this request does not match the batch endpoint."
            yield BodyFault("invalid_url", message, "url")

    def _body_faults(self, body: Mapping[str, Raw]) -> Iterator[BodyFault]:
        yield from self._body.faults(body)
        model = _text_or_none(body.get("model"))
        if model is not None and model not in self._models:
            message = f"The provided model '{quoted(model)}' is not supported by the Batch API."
            yield BodyFault("model_not_found", message, "body.model")

    def _accept_slowly(self, fields: Mapping[str, Raw], length: int) -> CheckedLine:
        """Good after all: it holds media, say, or a repeated key; in JSON the last one wins."""
        body = _FIELDS.decode(fields["body"])
        numbers = {name: msgspec.json.decode(body[name]) for name in (*LENGTH_LIMITS, "n") if name in body}
        limit = next(filter(None, map(numbers.get, LENGTH_LIMITS)), None)
        named: str = msgspec.json.decode(body["model"])
        tokens = self._expected_tokens(length, limit, numbers.get("n"))
        return CheckedLine(msgspec.json.decode(fields["custom_id"]), self._models[named], named, tokens)

    def _expected_tokens(self, length: int, limit: int | None, choices: int | None) -> int:
        """``length``: bytes of the line; ``limit``: of the tokens of one choice."""
        tokens = length // BYTES_PER_TOKEN
        if self._generates:
            tokens += max(limit or COMPLETION_TOKENS_ASSUMED, 0) * max(choices or 1, 1)
        return min(tokens, INT32_MAX)


def request_body(line: bytes) -> bytes:
    """The bytes of ``body`` exactly as the client wrote them; they are what the engine gets."""
    return bytes(_FIELDS.decode(line)["body"])


def answer_limit(expected_tokens: int, length: int) -> int:
    """Tokens that a row may answer, or is assumed to: what is expected of its line but for the prompt.

    ``length``: bytes of the line.
    """
    return max(0, expected_tokens - length // BYTES_PER_TOKEN)


def quoted(text: str) -> str:
    """A client's text, short enough for a message."""
    return text if len(text) <= QUOTED_CHARACTERS_MAX else text[:QUOTED_CHARACTERS_MAX] + "…"


def _method_faults(method: str) -> Iterator[BodyFault]:
    if method != "POST":
        message = f"Invalid value: '{quoted(method)}'. Supported values are: 'POST'."
        yield BodyFault("invalid_value", message, "method")


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
