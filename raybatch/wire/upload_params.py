"""The JSON bodies of ``POST /v1/uploads`` and of its ``/complete``, each checked into one frozen object.

Every refusal is OpenAI's 400: message, code and param.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

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
from raybatch.wire.request_line import quoted

PURPOSES: Final = ("batch",)
MD5_HEX: Final = re.compile(r"[0-9a-fA-F]{32}")
UPLOAD_FIELDS: Final = ("filename", "purpose", "bytes", "mime_type")
COMPLETION_FIELDS: Final = ("part_ids", "md5")


@dataclass(frozen=True, slots=True)
class UploadParams:
    filename: str
    purpose: str
    size_bytes: int
    file_expires_after_s: int | None


@dataclass(frozen=True, slots=True)
class CompletionParams:
    part_ids: tuple[str, ...]
    md5: str | None  #: lower-case hex


def parse_upload_params(body: bytes, *, bytes_max: int) -> UploadParams:
    """Raises BadRequest naming the first fault. The ``mime_type`` is asked for and not used."""
    fields = json_object(body, (*UPLOAD_FIELDS, "expires_after"))
    require(fields, UPLOAD_FIELDS)
    text("mime_type", fields["mime_type"])
    setting = " That is this server's limit (setting api.large_upload_bytes_max)."
    return UploadParams(
        filename=text("filename", fields["filename"]),
        purpose=choice("purpose", fields["purpose"], PURPOSES),
        size_bytes=integer("bytes", fields["bytes"], 1, bytes_max, setting),
        file_expires_after_s=expiry_s("expires_after", fields.get("expires_after")),
    )


def parse_completion_params(body: bytes) -> CompletionParams:
    """Raises BadRequest naming the first fault."""
    fields = json_object(body, COMPLETION_FIELDS)
    require(fields, ("part_ids",))
    ids, md5 = fields["part_ids"], fields.get("md5")
    if not isinstance(ids, list):
        refuse_type("part_ids", "an array of strings", ids)
    return CompletionParams(
        tuple(text(f"part_ids[{place}]", part_id) for place, part_id in enumerate(ids)),
        None if md5 is None else _md5(text("md5", md5)),
    )


def _md5(found: str) -> str:
    if not MD5_HEX.fullmatch(found):
        message = f"Invalid 'md5': expected 32 hexadecimal digits, but got '{quoted(found)}' instead."
        refuse("invalid_value", message, "md5")
    return found.lower()
