"""``/v1/batches``: create, look, list, cancel. ``POST`` takes OpenAI's JSON, or all of it in one form."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request

from raybatch.actors.reads import BatchView, Overview, Page
from raybatch.core.events import BatchAsked, CancelAsked, FileDeletionAsked, FileStored
from raybatch.core.model import Batch, File
from raybatch.errors import BadRequest, RaybatchError
from raybatch.wire.batch_params import BatchParams, parse_batch_params
from raybatch.wire.openai_objects import Json, batch_object, list_object
from serve_app.door import Door, TheDoor, new_batch_id, new_file_id, new_reply_to, small_body
from serve_app.files import kept
from serve_app.upload import Upload, received

router = APIRouter(prefix="/v1/batches", tags=["batches"])

IDEMPOTENCY_KEY_CHARACTERS_MAX = 255
ONE_SHOT_FIELDS = ("model", "endpoint", "completion_window", "metadata", "priority")
TEXT: Json = {"type": "string"}
BODIES: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["input_file_id", "endpoint", "completion_window"],
                    "properties": {
                        "input_file_id": TEXT,
                        "endpoint": TEXT,
                        "completion_window": {"type": "string", "enum": ["24h"]},
                        "metadata": {"type": "object", "additionalProperties": TEXT},
                        "priority": {"type": "integer", "minimum": -100, "maximum": 100},
                    },
                }
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "model": TEXT,
                        "endpoint": TEXT,
                        "metadata": {"type": "string", "description": "a JSON object of strings"},
                        "priority": {"type": "integer"},
                    },
                }
            },
        }
    }
}


@router.post("", openapi_extra=BODIES)
async def create_batch(request: Request, door: TheDoor) -> Json:
    """Start a batch: from an uploaded file (JSON), or from a file in this very request (a multipart form).

    In a form, ``model`` must be the model that the lines name, when it is given; the answer then also has an
    ``estimate``, null until throughput was measured.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await _create_from_form(request, door)
    params = parse_batch_params(await small_body(request))
    asked = _asked(door, request, params, params.input_file_id)
    await door.writable()
    batch: Batch = await door.scheduler.ask(asked)
    return shown(BatchView(batch))


@router.get("")
async def list_batches(
    door: TheDoor, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Json:
    page: Page[BatchView] = await door.scheduler.read("views", door.tenant, after, limit)
    return list_object([shown(view) for view in page.items], has_more=page.has_more)


@router.get("/{batch_id}")
async def get_batch(batch_id: str, door: TheDoor) -> Json:
    return shown(await door.scheduler.read("view", door.tenant, batch_id))


@router.post("/{batch_id}/cancel")
async def cancel_batch(batch_id: str, door: TheDoor) -> Json:
    """Finished rows are kept; rows that run may still finish."""
    batch: Batch = await door.scheduler.ask(CancelAsked(new_reply_to(), door.tenant, batch_id))
    return shown(BatchView(batch))


def shown(view: BatchView) -> Json:
    """OpenAI's batch object, with what is ours under ``raybatch``."""
    return batch_object(
        view.batch,
        {
            "tenant": view.batch.tenant,
            "priority": view.batch.priority,
            "rows_per_s": round(view.rows_per_s, 3),
            "tokens_per_s": round(view.tokens_per_s, 3),
            "eta_s": None if view.eta_s is None else round(view.eta_s, 1),
        },
    )


# -- file and batch in one request ---------------------------------------------------------------------------


async def _create_from_form(request: Request, door: Door) -> Json:
    with door.upload_slot():
        overview = await door.writable()
        async with received(request, door, ONE_SHOT_FIELDS) as upload:
            params = _form_params(upload)
            _check_model(door, upload)
            file = await kept(door, upload)
        await door.scheduler.ask(FileStored(new_reply_to(), file))
    # the file id is new each time, so it is the content that tells a repeated request
    asked = _asked(door, request, params, f"sha256:{file.sha256}")
    try:
        batch: Batch = await door.scheduler.ask(asked)
    except RaybatchError:
        await _forget(door, file)
        raise
    if batch.batch_id != asked.batch_id:  # the batch of an earlier try: it has its own copy
        await _forget(door, file)
    return {**shown(BatchView(batch)), "estimate": _estimate(overview, upload.lines)}


def _form_params(upload: Upload) -> BatchParams:
    """The same checks, and the same messages, as for JSON."""
    fields = upload.fields
    return parse_batch_params(
        msgspec.json.encode(
            {
                "input_file_id": upload.file_id,
                "endpoint": fields.get("endpoint", "/v1/chat/completions"),
                "completion_window": fields.get("completion_window", "24h"),
                "metadata": _json_field(fields, "metadata"),
                "priority": _json_field(fields, "priority") or 0,
            }
        )
    )


def _json_field(fields: Mapping[str, str], name: str) -> object:
    text = fields.get(name, "")
    try:
        return msgspec.json.decode(text) if text else None
    except msgspec.DecodeError:
        message = f"Invalid '{name}': expected JSON, but got '{text[:200]}'."
        raise BadRequest(message, param=name, code="invalid_type") from None


def _check_model(door: Door, upload: Upload) -> None:
    """``model`` against the first line; intake holds the other lines against the first."""
    named = upload.fields.get("model")
    if named is None:
        return
    canonical = door.settings.canonical()
    if named not in canonical:
        message = (
            f"The model '{named[:200]}' is not served here. Served are: {', '.join(canonical) or 'none'}."
        )
        raise BadRequest(message, param="model", code="model_not_found")
    in_line = _line_model(upload.first_line)
    if in_line is not None and canonical.get(in_line) != canonical[named]:
        message = f"The form names the model '{named}', but the file's first line '{in_line[:200]}'."
        raise BadRequest(message, param="model", code="mismatched_model")


class _Body(msgspec.Struct):
    model: str


class _Line(msgspec.Struct):
    body: _Body


def _line_model(line: bytes) -> str | None:
    """None where the line names none: intake will say so."""
    try:
        return msgspec.json.decode(line, type=_Line).body.model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


async def _forget(door: Door, file: File) -> None:
    await door.scheduler.ask(FileDeletionAsked(new_reply_to(), door.tenant, file.file_id))


def _estimate(overview: Overview, lines: int) -> Json | None:
    """From what all engines together finish right now; None while nothing was measured."""
    rows_per_s = sum(engine.rows_per_s for engine in overview.engines if not engine.lost)
    if rows_per_s <= 0:
        return None
    minutes = (overview.queued_rows + lines) / rows_per_s / 60
    return {
        "estimated_time_minutes": round(minutes, 2),
        "rows": lines,
        "rows_ahead": overview.queued_rows,
        "rows_per_s": round(rows_per_s, 3),
    }


# -- what the scheduler is asked -----------------------------------------------------------------------------


def _asked(door: Door, request: Request, params: BatchParams, source: str) -> BatchAsked:
    """``source``: what stands for the input when a repeated request is to be recognised."""
    return BatchAsked(
        reply_to=new_reply_to(),
        batch_id=new_batch_id(),
        tenant=door.tenant,
        input_file_id=params.input_file_id,
        output_file_id=new_file_id(),
        error_file_id=new_file_id(),
        endpoint=params.endpoint,
        completion_window=params.completion_window,
        completion_window_s=params.completion_window_s,
        metadata=params.metadata,
        priority=params.priority,
        request_key=_request_key(door.tenant, source, params),
        idempotency_key=_idempotency_key(request),
        is_retry=request.headers.get("x-stainless-retry-count", "0") != "0",
    )


def _request_key(tenant: str, source: str, params: BatchParams) -> str:
    same = [
        tenant,
        source,
        params.endpoint,
        params.completion_window,
        sorted((params.metadata or {}).items()),
        params.priority,
        params.output_expires_after_s,
    ]
    return sha256(msgspec.json.encode(same)).hexdigest()


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= IDEMPOTENCY_KEY_CHARACTERS_MAX:
        most = IDEMPOTENCY_KEY_CHARACTERS_MAX
        message = f"The Idempotency-Key has {len(key):,} characters; it may have 1 to {most}."
        raise BadRequest(message, param="Idempotency-Key")
    return key or None
