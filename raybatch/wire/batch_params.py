"""The JSON bodies of ``POST /v1/batches`` and of its ``/retry``, each checked into one frozen object.

Every refusal is OpenAI's 400: message, code and param. An input file that does not exist is not refused here:
such a batch is created and then fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raybatch.core.model import Validation
from raybatch.wire.body_rules import ENDPOINTS
from raybatch.wire.json_params import (
    choice,
    expiry_s,
    integer,
    json_object,
    refuse,
    refuse_type,
    require,
    text,
)

COMPLETION_WINDOWS: Mapping[str, float] = {"24h": 86_400.0}
METADATA_PAIRS_MAX = 16
METADATA_KEY_CHARACTERS_MAX = 64
METADATA_VALUE_CHARACTERS_MAX = 512
PRIORITY_MAX = 100  #: and its negative at the other end

REQUIRED = ("input_file_id", "endpoint", "completion_window")
OPTIONAL = ("metadata", "output_expires_after", "priority", "validation")
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
    validation: Validation | None  #: None: as the server's setting says


def parse_batch_params(body: bytes, *, windows_s: Mapping[str, float] = COMPLETION_WINDOWS) -> BatchParams:
    """``windows_s``: the completion windows on offer. Raises BadRequest naming the first fault."""
    fields = json_object(body, REQUIRED + OPTIONAL)
    require(fields, REQUIRED)
    window = choice("completion_window", fields["completion_window"], windows_s)
    return BatchParams(
        input_file_id=text("input_file_id", fields["input_file_id"]),
        endpoint=choice("endpoint", fields["endpoint"], ENDPOINTS),
        completion_window=window,
        completion_window_s=windows_s[window],
        metadata=_metadata(fields.get("metadata")),
        priority=integer("priority", fields.get("priority", 0), -PRIORITY_MAX, PRIORITY_MAX),
        output_expires_after_s=expiry_s("output_expires_after", fields.get("output_expires_after")),
        validation=_validation(fields.get("validation")),
    )


@dataclass(frozen=True, slots=True)
class RetryParams:
    """Which failed requests run again: those that match what is given, all of them when nothing is."""

    error_types: tuple[str, ...] | None = None
    custom_ids: tuple[str, ...] | None = None


def parse_retry_params(body: bytes) -> RetryParams:
    """An empty body asks for all. Raises BadRequest naming the first fault."""
    fields = json_object(body, RETRY_FIELDS) if body.strip() else {}
    return RetryParams(*(_texts(name, fields.get(name)) for name in RETRY_FIELDS))


def parse_file_expiry_s(fields: Mapping[str, str]) -> int | None:
    """``expires_after`` of an upload's form, which spells an object as fields with brackets.

    Raises BadRequest naming the first fault.
    """
    anchor, seconds = (fields.get(f"expires_after[{key}]") for key in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return None
    number = int(seconds) if seconds is not None and seconds.isdecimal() else seconds
    return expiry_s("expires_after", {"anchor": anchor, "seconds": number})


def _texts(param: str, found: object) -> tuple[str, ...] | None:
    if found is None:
        return None
    if not isinstance(found, list):
        refuse_type(param, "an array of strings", found)
    if not found:
        message = f"Invalid '{param}': the array is empty. Leave it out to retry every failed request."
        refuse("empty_array", message, param)
    return tuple(dict.fromkeys(text(f"{param}[{place}]", name) for place, name in enumerate(found)))


def _metadata(found: object) -> dict[str, str] | None:
    if found is None:
        return None
    if not isinstance(found, dict):
        refuse_type("metadata", "an object", found)
    if len(found) > METADATA_PAIRS_MAX:
        expected = f"too many properties. Expected an object with at most {METADATA_PAIRS_MAX} properties"
        message = f"Invalid 'metadata': {expected}, but got an object with {len(found)} properties instead."
        refuse("object_above_max_properties", message, "metadata")
    for key, value in found.items():
        _metadata_pair(key, value)
    return found


def _metadata_pair(key: str, found: object) -> None:
    if len(key) > METADATA_KEY_CHARACTERS_MAX:
        expected = f"Expected a property name of at most {METADATA_KEY_CHARACTERS_MAX} characters"
        message = f"Invalid 'metadata': property name too long. {expected}, but got {len(key)} instead."
        refuse("property_name_above_max_length", message, "metadata")
    param = f"metadata.{key}"
    value = text(param, found)
    if len(value) > METADATA_VALUE_CHARACTERS_MAX:
        expected = f"Expected a string with maximum length {METADATA_VALUE_CHARACTERS_MAX}"
        found_length = f"but got a string with length {len(value)} instead."
        message = f"Invalid '{param}': string too long. {expected}, {found_length}"
        refuse("string_above_max_length", message, param)


def _validation(found: object) -> Validation | None:
    return None if found is None else Validation(choice("validation", found, tuple(Validation)))
