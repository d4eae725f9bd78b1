"""The JSON bodies of ``POST /v1/batches`` and of its ``/retry``, each checked into one frozen object.

Every refusal is OpenAI's 400: message, code and param. An input file that does not exist is not refused here:
such a batch is created and then fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Never

import msgspec

from raybatch.errors import BadRequest
from raybatch.wire.body_rules import ENDPOINTS, json_kind
from raybatch.wire.request_line import quoted

DAY_S = 86_400.0
COMPLETION_WINDOWS: Mapping[str, float] = {"24h": DAY_S}
METADATA_PAIRS_MAX = 16
METADATA_KEY_CHARACTERS_MAX = 64
METADATA_VALUE_CHARACTERS_MAX = 512
PRIORITY_MAX = 100  #: and its negative at the other end
EXPIRY_MIN_S = 3_600  #: of a file, from its creation
EXPIRY_MAX_S = 2_592_000

REQUIRED = ("input_file_id", "endpoint", "completion_window")
OPTIONAL = ("metadata", "output_expires_after", "priority")
RETRY_FIELDS = ("error_types", "custom_ids")


@dataclass(frozen=True, slots=True)
class BatchParams:
    input_file_id: str
    endpoint: str
    completion_window: str  #: as the client wrote it
    completion_window_s: float
    metadata: dict[str, str] | None
    priority: int  #: -100..100, higher runs first
    output_expires_after_s: int | None


def parse_batch_params(body: bytes, *, windows_s: Mapping[str, float] = COMPLETION_WINDOWS) -> BatchParams:
    """``windows_s``: the completion windows on offer. Raises BadRequest naming the first fault."""
    fields = _object(body, REQUIRED + OPTIONAL)
    for name in REQUIRED:
        if fields.get(name) is None:
            _refuse("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    window = _choice("completion_window", fields["completion_window"], windows_s)
    return BatchParams(
        input_file_id=_text("input_file_id", fields["input_file_id"]),
        endpoint=_choice("endpoint", fields["endpoint"], ENDPOINTS),
        completion_window=window,
        completion_window_s=windows_s[window],
        metadata=_metadata(fields.get("metadata")),
        priority=_integer("priority", fields.get("priority", 0), -PRIORITY_MAX, PRIORITY_MAX),
        output_expires_after_s=_expiry_s("output_expires_after", fields.get("output_expires_after")),
    )


@dataclass(frozen=True, slots=True)
class RetryParams:
    """Which failed requests run again: those that match what is given, all of them when nothing is."""

    error_types: tuple[str, ...] | None = None
    custom_ids: tuple[str, ...] | None = None


def parse_retry_params(body: bytes) -> RetryParams:
    """An empty body asks for all. Raises BadRequest naming the first fault."""
    fields = _object(body, RETRY_FIELDS) if body.strip() else {}
    return RetryParams(*(_texts(name, fields.get(name)) for name in RETRY_FIELDS))


def parse_file_expiry_s(fields: Mapping[str, str]) -> int | None:
    """``expires_after`` of an upload's form, which spells an object as fields with brackets.

    Raises BadRequest naming the first fault.
    """
    anchor, seconds = (fields.get(f"expires_after[{key}]") for key in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return None
    number = int(seconds) if seconds is not None and seconds.isdecimal() else seconds
    return _expiry_s("expires_after", {"anchor": anchor, "seconds": number})


def _object(body: bytes, known: tuple[str, ...]) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"We could not parse the JSON body of your request: {error}.") from None
    if not isinstance(decoded, dict):
        message = f"The body of your request must be a JSON object, but it is {_kind(decoded)}."
        raise BadRequest(message, code="invalid_type")
    for name in decoded:
        if name not in known:
            message = f"Unknown parameter: '{quoted(name)}'. Known are: {', '.join(known)}."
            _refuse("unknown_parameter", message, quoted(name))
    return decoded


def _texts(param: str, found: object) -> tuple[str, ...] | None:
    if found is None:
        return None
    if not isinstance(found, list):
        _refuse_type(param, "an array of strings", found)
    if not found:
        message = f"Invalid '{param}': the array is empty. Leave it out to retry every failed request."
        _refuse("empty_array", message, param)
    return tuple(dict.fromkeys(_text(f"{param}[{place}]", name) for place, name in enumerate(found)))


def _text(param: str, found: object) -> str:
    if not isinstance(found, str):
        _refuse_type(param, "a string", found)
    return found


def _choice(param: str, found: object, supported: Mapping[str, object] | tuple[str, ...]) -> str:
    value = _text(param, found)
    if value not in supported:
        names = ", ".join(f"'{name}'" for name in supported)
        _refuse("invalid_value", f"Invalid value: '{quoted(value)}'. Supported values are: {names}.", param)
    return value


def _integer(param: str, found: object, least: int, most: int) -> int:
    if not isinstance(found, int) or isinstance(found, bool):
        _refuse_type(param, "an integer", found)
    if found < least:
        expected = f"integer below minimum value. Expected a value >= {least}"
        _refuse("integer_below_min_value", f"Invalid '{param}': {expected}, but got {found} instead.", param)
    if found > most:
        expected = f"integer above maximum value. Expected a value <= {most}"
        _refuse("integer_above_max_value", f"Invalid '{param}': {expected}, but got {found} instead.", param)
    return found


def _metadata(found: object) -> dict[str, str] | None:
    if found is None:
        return None
    if not isinstance(found, dict):
        _refuse_type("metadata", "an object", found)
    if len(found) > METADATA_PAIRS_MAX:
        expected = f"too many properties. Expected an object with at most {METADATA_PAIRS_MAX} properties"
        message = f"Invalid 'metadata': {expected}, but got an object with {len(found)} properties instead."
        _refuse("object_above_max_properties", message, "metadata")
    for key, value in found.items():
        _metadata_pair(key, value)
    return found


def _metadata_pair(key: str, found: object) -> None:
    if len(key) > METADATA_KEY_CHARACTERS_MAX:
        expected = f"Expected a property name of at most {METADATA_KEY_CHARACTERS_MAX} characters"
        message = f"Invalid 'metadata': property name too long. {expected}, but got {len(key)} instead."
        _refuse("property_name_above_max_length", message, "metadata")
    param = f"metadata.{key}"
    value = _text(param, found)
    if len(value) > METADATA_VALUE_CHARACTERS_MAX:
        expected = f"Expected a string with maximum length {METADATA_VALUE_CHARACTERS_MAX}"
        found_length = f"but got a string with length {len(value)} instead."
        message = f"Invalid '{param}': string too long. {expected}, {found_length}"
        _refuse("string_above_max_length", message, param)


def _expiry_s(param: str, found: object) -> int | None:
    if found is None:
        return None
    if not isinstance(found, dict):
        _refuse_type(param, "an object", found)
    _choice(f"{param}.anchor", found.get("anchor"), ("created_at",))
    return _integer(f"{param}.seconds", found.get("seconds"), EXPIRY_MIN_S, EXPIRY_MAX_S)


def _refuse_type(param: str, expected: str, found: object) -> Never:
    message = f"Invalid type for '{param}': expected {expected}, but got {_kind(found)} instead."
    _refuse("invalid_type", message, param)


def _refuse(code: str, message: str, param: str) -> Never:
    raise BadRequest(message, param=param, code=code)


def _kind(found: object) -> str:
    return json_kind(msgspec.json.encode(found))
