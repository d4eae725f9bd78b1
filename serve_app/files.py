"""``/v1/files``: uploads come in as blobs; a batch's output and error files are read off its parts."""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import lru_cache, partial
from pathlib import Path
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
from serve_app.downloads import CONTENT_ANSWERS, RANGE_HEADERS, Download, answer
from serve_app.openapi_schemas import EXPIRY
from serve_app.openapi_schemas import answers as described
from serve_app.parts_read import over_parts
from serve_app.threads import in_thread
from serve_app.upload import Upload, received

router = APIRouter(prefix="/v1/files", tags=["files"])

FORM_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
FORM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": EXPIRY["properties"]["seconds"],
    },
}
FORM = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM_SCHEMA}}}}


@router.post("", openapi_extra=FORM, responses=described("File", 400, 413, 429, 503))
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


@router.get("", responses=described("FileList", 503))
async def list_files(
    door: TheDoor,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> Json:
    page: Page[File] = await door.scheduler.read("files", door.tenant, after, limit, order, purpose)
    return list_object([file_object(file) for file in page.items], has_more=page.has_more)


@router.get("/{file_id}", responses=described("File", 404, 503))
async def get_file(file_id: str, door: TheDoor) -> Json:
    return file_object(await door.scheduler.read("file", door.tenant, file_id))


@router.get(
    "/{file_id}/content",
    response_class=Response,
    openapi_extra={"parameters": RANGE_HEADERS},
    responses=CONTENT_ANSWERS,
)
async def get_content(file_id: str, request: Request, door: TheDoor) -> Response:
    """The bytes, or a range of them: of an upload as they came, of an output or error file in input order."""
    file: File = await door.scheduler.read("file", door.tenant, file_id)
    if file.batch_id is None:
        upload = Download(file.sha256 or file_id, file.size_bytes, partial(door.blobs.chunks, file_id))
        return await answer(request, upload)
    return await over_parts(door, file.batch_id, lambda rows: _rows_content(request, door, file, rows))


@router.delete("/{file_id}", responses=described("FileDeleted", 404, 503))
async def delete_file(file_id: str, door: TheDoor) -> Json:
    """The file is no longer served; its bytes go once no batch reads them."""
    await door.scheduler.ask(FileDeletionAsked(new_reply_to(), door.tenant, file_id))
    return {"id": file_id, "object": "file", "deleted": True}


async def _rows_content(request: Request, door: Door, file: File, rows: BatchRows) -> Response:
    kind: Kind = "output" if file.part_kind == "output" else "error"
    parts = await in_thread(lambda: rows.visible(file.round))

    def pieces(start: int, stop: int) -> Generator[bytes]:
        marks = _marks(door.home.root, file.file_id)
        return exports.jsonl(door.home.root, parts, kind, start=start, stop=stop, marks=marks)

    tag = f"{file.batch_id}-{kind}-{file.round}-{file.size_bytes}"
    return await answer(request, Download(tag, file.size_bytes, pieces))


@lru_cache(maxsize=256)
def _marks(home: Path, file_id: str) -> exports.Marks:
    """Of an output or error file, which never changes: compaction moves its rows and keeps its bytes."""
    return exports.Marks()


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
