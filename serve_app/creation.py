"""How a batch is created: from a file uploaded before, or from a form that brings it along."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import msgspec
from fastapi import Request

from raybatch.actors.reads import BatchView, Overview
from raybatch.core.events import BatchAsked, FileDeletionAsked, FileStored
from raybatch.core.model import Batch, File
from raybatch.crash_points import crash_point
from raybatch.errors import BadRequest, NotFound, RaybatchError
from raybatch.wire.batch_params import BatchParams, parse_batch_params
from raybatch.wire.openai_objects import Json
from serve_app.door import Door, new_batch_id, new_file_id, new_reply_to, small_body
from serve_app.files import kept
from serve_app.shown import shown
from serve_app.submit_estimate import estimate, first_line_of, line_model
from serve_app.upload import Upload, received

IDEMPOTENCY_KEY_CHARACTERS_MAX = 255
ONE_SHOT_FIELDS = ("model", "endpoint", "completion_window", "metadata", "priority", "validation")


async def create_from_json(request: Request, door: Door) -> Json:
    params = parse_batch_params(await small_body(request), windows_s=door.settings.api.windows_s)
    asked = _asked(door, request, params, params.input_file_id)
    overview = await door.writable()
    batch: Batch = await door.scheduler.ask(asked)
    crash_point("create.remembered")
    expected = await _estimate_of_known(door, overview, params)
    return shown(BatchView(batch), estimate=expected)


async def create_from_form(request: Request, door: Door) -> Json:
    with door.upload_slot():
        overview = await door.writable()
        async with received(request, door, ONE_SHOT_FIELDS) as upload:
            params = _form_params(door, upload)
            _check_model(door, upload)
            file = await kept(door, upload)
        await door.scheduler.ask(FileStored(new_reply_to(), file))
    expected = await estimate(door, overview, file, upload.first_line, params.priority)
    # the file id is new each time, so it is the content that tells a repeated request
    asked = _asked(door, request, params, f"sha256:{file.sha256}")
    try:
        batch: Batch = await door.scheduler.ask(asked)
    except RaybatchError:
        await _forget(door, file)
        raise
    if batch.batch_id != asked.batch_id:  # the batch of an earlier try: it has its own copy
        await _forget(door, file)
    return {**shown(BatchView(batch), estimate=expected), "estimate": expected}


async def _estimate_of_known(door: Door, overview: Overview, params: BatchParams) -> Json | None:
    try:
        file: File = await door.scheduler.read("file", door.tenant, params.input_file_id)
    except NotFound:
        return None
    return await estimate(door, overview, file, await first_line_of(door, file), params.priority)


# -- the form ------------------------------------------------------------------------------------------------


def _form_params(door: Door, upload: Upload) -> BatchParams:
    """The same checks, and the same messages, as for JSON."""
    fields, windows_s = upload.fields, door.settings.api.windows_s
    return parse_batch_params(
        msgspec.json.encode(
            {
                "input_file_id": upload.file_id,
                "endpoint": fields.get("endpoint", "/v1/chat/completions"),
                "completion_window": fields.get("completion_window", next(iter(windows_s))),
                "metadata": _json_field(fields, "metadata"),
                "priority": _json_field(fields, "priority") or 0,
                "validation": fields.get("validation"),
            }
        ),
        windows_s=windows_s,
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
    in_line = line_model(upload.first_line)
    if in_line is not None and canonical.get(in_line) != canonical[named]:
        message = f"The form names the model '{named}', but the file's first line '{in_line[:200]}'."
        raise BadRequest(message, param="model", code="mismatched_model")


async def _forget(door: Door, file: File) -> None:
    await door.scheduler.ask(FileDeletionAsked(new_reply_to(), door.tenant, file.file_id))


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
        output_expires_after_s=params.output_expires_after_s,
        validation=params.validation or door.settings.intake.validation,
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
        params.validation,
    ]
    return sha256(msgspec.json.encode(same)).hexdigest()


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= IDEMPOTENCY_KEY_CHARACTERS_MAX:
        most = IDEMPOTENCY_KEY_CHARACTERS_MAX
        message = f"The Idempotency-Key has {len(key):,} characters; it may have 1 to {most}."
        raise BadRequest(message, param="Idempotency-Key")
    return key or None
