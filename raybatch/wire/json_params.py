"""The fields of a JSON request body, each checked by its name.

Every refusal is OpenAI's 400: message, code and param.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Never

import msgspec

from raybatch.errors import BadRequest
from raybatch.wire.body_rules import json_kind
from raybatch.wire.request_line import quoted

EXPIRY_MIN_S = 3_600  #: of a file, from its creation
EXPIRY_MAX_S = 2_592_000


def json_object(body: bytes, known: tuple[str, ...]) -> dict[str, Any]:
    """The body's fields. Raises BadRequest, for a field that is not among the ``known`` too."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"We could not parse the JSON body of your request: {error}.") from None
    if not isinstance(decoded, dict):
        message = f"The body of your request must be a JSON object, but it is {kind_of(decoded)}."
        raise BadRequest(message, code="invalid_type")
    for name in decoded:
        if name not in known:
            message = f"Unknown parameter: '{quoted(name)}'. Known are: {', '.join(known)}."
            refuse("unknown_parameter", message, quoted(name))
    return decoded


def require(fields: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if fields.get(name) is None:
            refuse("missing_required_parameter", f"Missing required parameter: '{name}'.", name)


def text(param: str, found: object) -> str:
    if not isinstance(found, str):
        refuse_type(param, "a string", found)
    return found


def integer(param: str, found: object, least: int, most: int, hint: str = "") -> int:
    """``hint``: what to say beyond the bounds of a number above them."""
    if not isinstance(found, int) or isinstance(found, bool):
        refuse_type(param, "an integer", found)
    if found < least:
        expected = f"integer below minimum value. Expected a value >= {least}"
        refuse("integer_below_min_value", f"Invalid '{param}': {expected}, but got {found} instead.", param)
    if found > most:
        expected = f"integer above maximum value. Expected a value <= {most}"
        message = f"Invalid '{param}': {expected}, but got {found} instead.{hint}"
        refuse("integer_above_max_value", message, param)
    return found


def choice(param: str, found: object, supported: Mapping[str, object] | tuple[str, ...]) -> str:
    value = text(param, found)
    if value not in supported:
        names = ", ".join(f"'{name}'" for name in supported)
        refuse("invalid_value", f"Invalid value: '{quoted(value)}'. Supported values are: {names}.", param)
    return value


def expiry_s(param: str, found: object) -> int | None:
    """``{"anchor": "created_at", "seconds": n}``; None when it is not given."""
    if found is None:
        return None
    if not isinstance(found, dict):
        refuse_type(param, "an object", found)
    choice(f"{param}.anchor", found.get("anchor"), ("created_at",))
    return integer(f"{param}.seconds", found.get("seconds"), EXPIRY_MIN_S, EXPIRY_MAX_S)


def refuse_type(param: str, expected: str, found: object) -> Never:
    message = f"Invalid type for '{param}': expected {expected}, but got {kind_of(found)} instead."
    refuse("invalid_type", message, param)


def refuse(code: str, message: str, param: str) -> Never:
    raise BadRequest(message, param=param, code=code)


def kind_of(found: object) -> str:
    return json_kind(msgspec.json.encode(found))
