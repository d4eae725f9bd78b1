"""``/v1/batches/{id}/events``: a batch as it goes, as server-sent events, until it has ended.

``batch`` carries the batch object whenever it has changed, ``log`` one entry of the batch's log, whose id a
client gives back as ``Last-Event-ID`` when it comes again. Refuses to be more than looking: nothing is kept
between two looks, so a client that is cut off loses nothing but time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from raybatch.actors.reads import BatchView
from raybatch.core.model import LogEntry
from raybatch.errors import Unavailable
from raybatch.wire.openai_objects import Json
from serve_app.batches import log_entry
from serve_app.door import Door, TheDoor
from serve_app.openapi_schemas import bytes_answer, in_header, refused
from serve_app.shown import shown

LOOK_S: Final = 1.0
SIGN_OF_LIFE_LOOKS: Final = 15  #: without news: proxies end connections on which nothing comes
STREAM: Final = "text/event-stream"
LAST_EVENT: dict[str, Any] = {"parameters": [in_header("Last-Event-ID", "of the last log entry seen")]}

router = APIRouter(prefix="/v1/batches", tags=["batches"])


@router.get(
    "/{batch_id}/events",
    responses={200: bytes_answer(STREAM), **refused(404, 503)},
    openapi_extra=LAST_EVENT,
)
async def get_events(batch_id: str, request: Request, door: TheDoor) -> Response:
    """What happens to the batch, as it happens. Ends with the batch."""
    view: BatchView = await door.scheduler.read("view", door.tenant, batch_id)
    if request.method == "HEAD":
        return Response(media_type=STREAM)
    last = request.headers.get("last-event-id", "")
    events = _events(door, view, int(last) if last.isdecimal() and len(last) < 19 else 0)
    return StreamingResponse(events, media_type=STREAM)


async def _events(door: Door, view: BatchView, last_entry_id: int) -> AsyncIterator[bytes]:
    batch_id, told, silent_looks = view.batch.batch_id, b"", 0
    while True:
        for entry in await _new_entries(door, batch_id, last_entry_id):
            last_entry_id, silent_looks = entry.entry_id, 0
            yield _event("log", log_entry(entry), entry.entry_id)
        now = _event("batch", shown(view))
        if now != told:
            told, silent_looks = now, 0
            yield now
        if not view.batch.active:
            return
        silent_looks += 1
        if silent_looks % SIGN_OF_LIFE_LOOKS == 0:
            yield b": nothing new\n\n"
        await asyncio.sleep(LOOK_S)
        view = await _next_view(door, batch_id, view)


async def _new_entries(door: Door, batch_id: str, last_entry_id: int) -> list[LogEntry]:
    """None while the scheduler is away."""
    entries: tuple[LogEntry, ...] = ()
    with suppress(Unavailable):
        entries = await door.scheduler.read("log", door.tenant, batch_id)
    return [entry for entry in entries if entry.entry_id > last_entry_id]


async def _next_view(door: Door, batch_id: str, before: BatchView) -> BatchView:
    """As it was before while the scheduler is away: a restart ends nobody's stream."""
    with suppress(Unavailable):
        before = await door.scheduler.read("view", door.tenant, batch_id)
    return before


def _event(name: str, content: Json, entry_id: int | None = None) -> bytes:
    known_as = "" if entry_id is None else f"id: {entry_id}\n"
    return f"event: {name}\n{known_as}data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
