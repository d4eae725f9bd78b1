"""``/v1/files``: uploads come in as blobs; a batch's output and error files are read off its parts."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from raybatch.actors.reads import BatchRows, Page
from raybatch.core.events import FileDeletionAsked, FileStored
from raybatch.core.model import File
from raybatch.crash_points import crash_point
from raybatch.errors import BadRequest
from raybatch.storage import exports
from raybatch.storage.merge import Kind
from raybatch.wire.batch_params import parse_file_expiry_s
from raybatch.wire.openai_objects import Json, file_object, list_object
from serve_app.door import Door, TheDoor, new_reply_to
from serve_app.streams import stream
from serve_app.threads import in_thread
from serve_app.upload import Upload, received

router = APIRouter(prefix="/v1/files", tags=["files"])

FORM_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
FORM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer"},
    },
}


@router.post("", openapi_extra={"requestBody": {"content": {"multipart/form-data": {"schema": FORM_SCHEMA}}}})
async def create_file(request: Request, door: TheDoor) -> Json:
    """Upload a JSONL file of requests. It stays until it is deleted, or as long as ``expires_after`` says."""
    with door.upload_slot():
        await door.writable()
        async with received(request, door, FORM_FIELDS) as upload:
            _check_purpose(upload.fields.get("purpose"))
            file = await kept(door, upload)
        stored: File = await door.scheduler.ask(FileStored(new_reply_to(), file))
        crash_point("upload.remembered")
        return file_object(stored)


@router.get("")
async def list_files(
    door: TheDoor,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> Json:
    page: Page[File] = await door.scheduler.read("files", door.tenant, after, limit, order, purpose)
    return list_object([file_object(file) for file in page.items], has_more=page.has_more)


@router.get("/{file_id}")
async def get_file(file_id: str, door: TheDoor) -> Json:
    return file_object(await door.scheduler.read("file", door.tenant, file_id))


@router.get("/{file_id}/content", response_class=Response)
async def get_content(file_id: str, door: TheDoor) -> Response:
    """The bytes: of an upload as they came, of an output or error file in input order."""
    file: File = await door.scheduler.read("file", door.tenant, file_id)
    if file.batch_id is None:
        pieces = door.blobs.chunks(file_id)
    else:
        kind: Kind = "output" if file.part_kind == "output" else "error"
        rows: BatchRows = await door.scheduler.read("rows", door.tenant, file.batch_id)
        parts = await in_thread(lambda: rows.visible(file.round))
        pieces = exports.jsonl(door.home.root, parts, kind)
    return await stream(pieces, media_type="application/octet-stream", size_bytes=file.size_bytes)


@router.delete("/{file_id}")
async def delete_file(file_id: str, door: TheDoor) -> Json:
    """The file is no longer served; its bytes go once no batch reads them."""
    await door.scheduler.ask(FileDeletionAsked(new_reply_to(), door.tenant, file_id))
    return {"id": file_id, "object": "file", "deleted": True}


async def kept(door: Door, upload: Upload) -> File:
    """Make the upload durable, as a file the scheduler has yet to hear of."""
    expires_after_s, now = parse_file_expiry_s(upload.fields), time.time()
    return File(
        file_id=upload.file_id,
        tenant=door.tenant,
        purpose="batch",
        filename=upload.filename,
        size_bytes=upload.size_bytes,
        created_at=now,
        sha256=await upload.keep(),
        lines=upload.lines,
        expires_at=None if expires_after_s is None else now + expires_after_s,
    )


def _check_purpose(found: str | None) -> None:
    if found is None:
        message = "Missing required parameter: 'purpose'. Expected 'batch'."
        raise BadRequest(message, param="purpose", code="missing_required_parameter")
    if found != "batch":
        message = f"Invalid value: '{found[:200]}'. This server takes files with purpose 'batch' only."
        raise BadRequest(message, param="purpose", code="invalid_value")
