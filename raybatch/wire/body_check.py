"""Applies the table of request bodies to one body: quickly to good ones, in full to the others.

A body without anything remarkable is accepted by one typed decoding pass. Schemas and other fields that must
be looked into are remembered by their text, because most batches repeat them on every line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Raw

from raybatch.wire.body_rules import BodyField, BodyRules, json_kind
from raybatch.wire.server_terms import ServerTerms

LOOKS_REMEMBERED_MAX: Final = 10_000
_NAME_CHARACTERS_MAX: Final = 80

_AS_GOOD_AS_ABSENT: Final = frozenset({b"null", b"false"})


class BodyFault(msgspec.Struct, frozen=True):
    code: str
    message: str
    param: str
    structural: bool = True  #: a strict batch fails for it; otherwise only its line


class BodyChecker:
    """Checks the bodies of one batch."""

    def __init__(self, rules: BodyRules, terms: ServerTerms) -> None:
        self._terms = terms
        self._fields = rules.fields
        self._known = frozenset(field.name for field in rules.fields)
        accepted = [field for field in rules.fields if field.never is None]
        self.fast_type = _fast_type(accepted)
        looked = [field for field in accepted if field.look is not None and field.plain is None]
        switches = [field.name for field in accepted if field.refused_when_true or field.not_with]
        self._looked = tuple(looked)
        self._marks = attrgetter(*(field.name for field in looked), *switches, "model")
        self._unmarked = (None,) * (len(looked) + len(switches))
        self._remembered: dict[bytes, str | None] = {}  #: by digest

    def passes(self, body: Any) -> bool:
        """Whether a body of ``fast_type`` has no fault; False where only ``faults`` can tell."""
        marks = self._marks(body)[:-1] if self._unmarked else ()
        if marks == self._unmarked:
            return True
        looked = len(self._looked)
        if any(marks[looked:]):
            return False
        given = zip(self._looked, marks[:looked], strict=True)
        return all(raw is None or self._fault(field, bytes(raw), {}) is None for field, raw in given)

    def faults(self, body: Mapping[str, Raw]) -> Iterator[BodyFault]:
        """Everything that is wrong, in the table's order; names the table lacks last."""
        for field in self._fields:
            if field.required or field.name in body:
                fault = self._fault(field, bytes(body.get(field.name, b"null")), body)
                if fault is not None:
                    yield fault
        yield from (_unknown(name) for name in body if name not in self._known)

    def _fault(self, field: BodyField, raw: bytes, body: Mapping[str, Raw]) -> BodyFault | None:
        if field.never is not None:
            return None if raw in _AS_GOOD_AS_ABSENT else _refused(field, f"{field.never}; leave it out")
        if raw == b"null":
            return _absent(field) if field.required else None
        try:
            value = msgspec.json.decode(raw, type=field.kind.type)
        except msgspec.ValidationError:
            message = wrong_type(f"body.{field.name}", field.kind.expected, raw)
            return BodyFault("invalid_type", message, f"body.{field.name}", field.structural)
        problem = _beyond(field, raw) or (self._look(field, raw) if field.look is not None else None)
        if problem is not None:
            return _refused(field, problem)
        if value is not True:
            return None
        if field.refused_when_true is not None:
            return BodyFault(*field.refused_when_true, f"body.{field.name}", field.structural)
        for other in field.not_with:
            if bytes(body.get(other, b"0")) not in (*_AS_GOOD_AS_ABSENT, b"0"):
                return _refused(field, f"it cannot be given together with '{other}'")
        return None

    def _look(self, field: BodyField, raw: bytes) -> str | None:
        assert field.look is not None
        if field.plain is not None:  # messages and inputs, of which no two are alike
            return field.look(msgspec.json.decode(raw), self._terms)
        key = hashlib.blake2b(raw, digest_size=16, person=field.name[:16].encode()).digest()
        if key not in self._remembered:
            if len(self._remembered) >= LOOKS_REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[key] = field.look(msgspec.json.decode(raw), self._terms)
        return self._remembered[key]


def wrong_type(name: str, expected: str, raw: bytes) -> str:
    """``raw``: the JSON text that was found, without white space around it."""
    return f"Invalid type for '{name}': expected {expected}, but got {json_kind(raw)} instead."


def _fast_type(fields: list[BodyField]) -> type[msgspec.Struct]:
    """Refuses unknown names, and those that are never accepted with them."""
    typed: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        (field.name, field.fast_type)
        if field.required
        else (field.name, field.fast_type if field.fast_type is Raw else field.fast_type | None, None)
        for field in fields
    ]
    return msgspec.defstruct("Body", typed, forbid_unknown_fields=True, gc=False)


def _beyond(field: BodyField, raw: bytes) -> str | None:
    if field.within is None:
        return None
    try:
        msgspec.json.decode(raw, type=field.within.type)
    except msgspec.ValidationError:
        return f"expected {field.within.expected}{_found(raw)}"
    return None


def _found(raw: bytes) -> str:
    """Quotes a number, and nothing longer than one."""
    if json_kind(raw) not in ("an integer", "a decimal number"):
        return ""
    return f", but got {raw.decode() if len(raw) <= 20 else f'a number of {len(raw)} digits'} instead"


def _absent(field: BodyField) -> BodyFault:
    message = f"{field.name.capitalize()} parameter is required."
    return BodyFault("invalid_request", message, f"body.{field.name}", field.structural)


def _refused(field: BodyField, problem: str) -> BodyFault:
    name = f"body.{field.name}"
    return BodyFault("invalid_value", f"Invalid '{name}': {problem}.", name, False)


def _unknown(name: str) -> BodyFault:
    shown = name if len(name) <= _NAME_CHARACTERS_MAX else name[:_NAME_CHARACTERS_MAX] + "…"
    return BodyFault("unknown_parameter", f"Unknown parameter: '{shown}'.", f"body.{shown}", False)
