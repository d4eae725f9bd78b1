"""``/v1/uploads``: a file too large for one request comes in parts and becomes a File like any other.

Every call may be asked again, of another replica too: what counts is on disk before it is answered, and
whoever changes an upload holds it alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

from fastapi import APIRouter, Request

from raybatch.core.events import FileStored
from raybatch.core.large_upload import LargeUpload, UploadStatus
from raybatch.core.model import File
from raybatch.crash_points import crash_point
from raybatch.errors import BadRequest, Busy, TooLarge
from raybatch.storage.uploads import PartWriter, UploadStore, no_such_upload
from raybatch.wire.openai_objects import Json, upload_object
from raybatch.wire.upload_params import parse_completion_params, parse_upload_params
from serve_app.announcement import Announcement
from serve_app.door import BUSY_RETRY_AFTER_S, Door, TheDoor, new_file_id, new_reply_to, small_body
from serve_app.joining import joining
from serve_app.openapi_schemas import EXPIRY, answers
from serve_app.threads import in_thread
from serve_app.upload import Form, Sink, base_name, check_length, disk_full_is_unavailable, read_form

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

PART_BYTES_MAX: Final = 64 << 20
PARTS_MAX: Final = 10_000  #: of one upload
HELD_MAX_S: Final = 120.0  #: gigabytes are joined meanwhile
HELD_LOOK_S: Final = 0.1

UPLOAD_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["filename", "purpose", "bytes", "mime_type"],
    "properties": {
        "filename": {"type": "string"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "bytes": {"type": "integer", "minimum": 1},
        "mime_type": {"type": "string"},
        "expires_after": EXPIRY,
    },
}
PART_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "format": "binary"}},
}
COMPLETION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["part_ids"],
    "properties": {
        "part_ids": {"type": "array", "items": {"type": "string"}},
        "md5": {"type": "string", "pattern": "^[0-9a-fA-F]{32}$"},
    },
}
UPLOAD_BODY, PART_BODY, COMPLETION_BODY = (
    {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}
    for kind, schema in (
        ("application/json", UPLOAD_SCHEMA),
        ("multipart/form-data", PART_SCHEMA),
        ("application/json", COMPLETION_SCHEMA),
    )
)


@router.post("", openapi_extra=UPLOAD_BODY, responses=answers("Upload", 400, 413, 503))
async def create_upload(request: Request, door: TheDoor) -> Json:
    """Begin a file that comes in parts. It has an hour to be completed.

    ``expires_after`` is for the file that it becomes.
    """
    limits = door.settings.api
    params = parse_upload_params(await small_body(request), bytes_max=limits.large_upload_bytes_max)
    await door.writable()
    upload = LargeUpload(
        upload_id=f"upload_{uuid4().hex}",
        tenant=door.tenant,
        file_id=new_file_id(),
        filename=base_name(params.filename),
        purpose=params.purpose,
        size_bytes=params.size_bytes,
        created_at=time.time(),
        file_expires_after_s=params.file_expires_after_s,
    )
    with disk_full_is_unavailable():
        await in_thread(lambda: _store(door).create(upload))
    crash_point("large_upload.created")
    return _shown(upload)


@router.post(
    "/{upload_id}/parts",
    openapi_extra=PART_BODY,
    responses=answers("UploadPart", 400, 404, 413, 429, 503),
)
async def add_part(upload_id: str, request: Request, door: TheDoor) -> Json:
    """Add a part, 64 MiB at most. Parts may come in any order, and several at once."""
    with door.part_slot():
        known = await in_thread(lambda: _load(door, upload_id))
        _check_pending(known, "add a Part to")
        await door.writable()
        check_length(request, PART_BYTES_MAX, _part_too_large)
        with disk_full_is_unavailable(), _store(door).part_writer(upload_id) as writer:
            arriving = _Arriving(door, known, writer)
            form = Form("data", (), Sink(arriving.write, PART_BYTES_MAX, _part_too_large))
            await read_form(request, form, arriving.announce)
            form.filename()
            async with _held(door, upload_id) as upload:
                _check_pending(upload, "add a Part to")
                await in_thread(lambda: _keep(door, upload, writer))
            arriving.keep()
    crash_point("upload_part.kept")
    created_at = int(time.time())
    return {"id": writer.part_id, "object": "upload.part", "created_at": created_at, "upload_id": upload_id}


@router.post(
    "/{upload_id}/complete",
    openapi_extra=COMPLETION_BODY,
    responses=answers("Upload", 400, 404, 413, 429, 503),
)
async def complete_upload(upload_id: str, request: Request, door: TheDoor) -> Json:
    """Join the parts, in this order, to a file. Together they must have the bytes that were declared."""
    params = parse_completion_params(await small_body(request))
    async with _held(door, upload_id) as upload:
        if upload.file is not None and upload.part_ids == params.part_ids:
            return await _asked_again(door, upload)
        _check_pending(upload, "complete")
        await door.writable()
        with disk_full_is_unavailable():
            file = await in_thread(joining(door, upload, params))
            stored: File = await door.scheduler.ask(FileStored(new_reply_to(), file))
            crash_point("large_upload.remembered")
            completed = replace(upload, part_ids=params.part_ids, file=stored)
            await in_thread(lambda: _end(door, completed))
    return _shown(completed)


@router.post("/{upload_id}/cancel", responses=answers("Upload", 400, 404, 429, 503))
async def cancel_upload(upload_id: str, door: TheDoor) -> Json:
    """Give up: its parts go, and no more can be added."""
    async with _held(door, upload_id) as upload:
        if upload.cancelled:
            return await _asked_again(door, upload)
        _check_pending(upload, "cancel")
        if upload.part_ids:
            raise BadRequest("Cannot cancel an Upload that is being completed.")
        cancelled = replace(upload, cancelled=True)
        with disk_full_is_unavailable():
            await in_thread(lambda: _end(door, cancelled))
    return _shown(cancelled)


# -- whose it is, and whether it may change ------------------------------------------------------------------


@asynccontextmanager
async def _held(door: Door, upload_id: str) -> AsyncIterator[LargeUpload]:
    """The upload as it is now; nobody else changes it until the block ends. Raises NotFound, and Busy."""
    await in_thread(lambda: _load(door, upload_id))  # strangers do not even learn that it is in use
    deadline_mono = time.monotonic() + HELD_MAX_S
    while True:
        with _store(door).held(upload_id) as mine:
            if mine:
                yield await in_thread(lambda: _load(door, upload_id))
                return
        if time.monotonic() > deadline_mono:
            message = (
                f"Another request has been changing this Upload for {HELD_MAX_S:.0f} s. Try again shortly."
            )
            raise Busy(message, retry_after_s=BUSY_RETRY_AFTER_S, code="upload_in_use")
        await asyncio.sleep(HELD_LOOK_S)


def _load(door: Door, upload_id: str) -> LargeUpload:
    upload = _store(door).load(upload_id)
    if upload.tenant != door.tenant:
        raise no_such_upload(upload_id)
    return upload


def _check_pending(upload: LargeUpload, verb: str) -> None:
    status = upload.status(time.time())
    if status is UploadStatus.PENDING:
        return
    more = " It had an hour: begin a new one." if status is UploadStatus.EXPIRED else ""
    raise BadRequest(f"Cannot {verb} an Upload with status '{status}'.{more}")


# -- its parts -----------------------------------------------------------------------------------------------


class _Arriving:
    """A part on its way. If it lies behind those before it, the file they make is checked meanwhile."""

    def __init__(self, door: Door, upload: LargeUpload, writer: PartWriter) -> None:
        self._door = door
        self._upload_id = upload.upload_id
        self._writer = writer
        self._whole = door.wholes.take(upload.upload_id, writer.start)
        announced = self._whole is not None and self._whole.announced
        self._announcement = Announcement(door, upload.file_id, announced)

    def write(self, block: bytes) -> None:
        self._writer.write(block)
        if self._whole is not None:
            self._whole.feed(block)

    def announce(self) -> None:
        if self._whole is not None:
            self._announcement.grown(self._writer.arriving, self._whole.size_bytes)
            self._whole.announced = self._announcement.made

    def keep(self) -> None:
        if self._whole is not None:
            self._door.wholes.keep(self._upload_id, self._whole)


def _keep(door: Door, upload: LargeUpload, writer: PartWriter) -> None:
    """The upload is held. Raises BadRequest for a part that it has no room for."""
    if not writer.size_bytes:
        raise BadRequest("This part is empty: expected at least one byte.", param="data")
    sizes = _store(door).parts(upload.upload_id) | {writer.part_id: writer.size_bytes}
    if len(sizes) > PARTS_MAX:
        raise BadRequest(f"An Upload may have {PARTS_MAX:,} parts. Send larger ones.", param="data")
    if sum(sizes.values()) > upload.size_bytes:
        raise BadRequest(
            f"With this part the Upload would have {sum(sizes.values()):,} bytes, but it was declared with "
            f"{upload.size_bytes:,}.",
            param="data",
        )
    writer.commit()


def _end(door: Door, upload: LargeUpload) -> None:
    """Completed or cancelled: that first, then its parts go."""
    _store(door).save(upload)
    crash_point("large_upload.ended")
    _store(door).remove_parts(upload.upload_id)


async def _asked_again(door: Door, upload: LargeUpload) -> Json:
    """Whoever ended it first may have died before its parts went."""
    await in_thread(lambda: _store(door).remove_parts(upload.upload_id))
    return _shown(upload)


def _part_too_large(found: str, most: int) -> TooLarge:
    return TooLarge(
        f"This part {found}; a part may have {most:,} bytes. Send the file in more parts.",
        param="data",
        code="part_too_large",
    )


def _store(door: Door) -> UploadStore:
    return UploadStore(door.home.uploads)


def _shown(upload: LargeUpload) -> Json:
    return upload_object(upload, upload.status(time.time()))
