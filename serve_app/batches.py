"""``/v1/batches``: create, look, list, cancel, pause, delete, and what happened to one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from raybatch.actors.reads import BatchView, Page
from raybatch.core.events import BatchDeletionAsked, CancelAsked, PauseAsked
from raybatch.core.model import Batch, LogEntry
from raybatch.wire.body_rules import ENDPOINTS
from raybatch.wire.openai_objects import Json, list_object
from serve_app.creation import create_from_form, create_from_json
from serve_app.door import Door, TheDoor, new_reply_to
from serve_app.openapi_schemas import EXPIRY, METADATA, answers, in_header
from serve_app.shown import shown

router = APIRouter(prefix="/v1/batches", tags=["batches"])

TEXT: Json = {"type": "string"}
WINDOW: Json = {"type": "string", "examples": ["24h"], "description": "24h, and what the operator allows"}
BODIES: dict[str, Any] = {
    "parameters": [
        in_header("Idempotency-Key", "of 1 to 255 characters: the same key answers the same batch"),
        in_header("x-stainless-retry-count", "above 0: the same parameters answer the same batch"),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["input_file_id", "endpoint", "completion_window"],
                    "properties": {
                        "input_file_id": TEXT,
                        "endpoint": {"type": "string", "enum": list(ENDPOINTS)},
                        "completion_window": WINDOW,
                        "metadata": METADATA,
                        "output_expires_after": {"anyOf": [EXPIRY, {"type": "null"}]},
                        "priority": {"type": "integer", "minimum": -100, "maximum": 100},
                        "validation": {"type": "string", "enum": ["strict", "relaxed"]},
                    },
                }
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "model": TEXT,
                        "endpoint": {"type": "string", "enum": list(ENDPOINTS)},
                        "completion_window": WINDOW,
                        "metadata": {"type": "string", "description": "a JSON object of strings"},
                        "priority": {"type": "integer"},
                        "validation": {"type": "string", "enum": ["strict", "relaxed"]},
                    },
                }
            },
        },
    },
}


@router.post("", openapi_extra=BODIES, responses=answers("Batch", 400, 409, 413, 429, 503))
async def create_batch(request: Request, door: TheDoor) -> Json:
    """Start a batch: from an uploaded file (JSON), or from a file in this very request (a multipart form).

    In a form, ``model`` must be the model that the lines name, when it is given. ``raybatch.estimate`` (for a
    form ``estimate``, too) says how long it will take, and is null until the model's pace was measured.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await create_from_form(request, door)
    return await create_from_json(request, door)


@router.get("", responses=answers("BatchList", 503))
async def list_batches(
    door: TheDoor, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Json:
    page: Page[BatchView] = await door.scheduler.read("views", door.tenant, after, limit)
    return list_object([shown(view) for view in page.items], has_more=page.has_more)


@router.get("/{batch_id}", responses=answers("Batch", 404, 503))
async def get_batch(batch_id: str, door: TheDoor) -> Json:
    return shown(await door.scheduler.read("view", door.tenant, batch_id))


@router.post("/{batch_id}/cancel", responses=answers("Batch", 404, 409, 503))
async def cancel_batch(batch_id: str, door: TheDoor) -> Json:
    """Finished rows are kept; rows that run may still finish."""
    batch: Batch = await door.scheduler.ask(CancelAsked(new_reply_to(), door.tenant, batch_id))
    return shown(BatchView(batch))


@router.delete("/{batch_id}", responses=answers("BatchDeleted", 404, 503))
async def delete_batch(batch_id: str, door: TheDoor) -> Json:
    """Forget an ended batch: its rows, its output and error files, its log. The input file stays, unless it
    was deleted before and no other batch refers to it. An active batch is cancelled: ``deleted`` is false
    then, and its finished rows are kept until it is deleted once more.
    """
    batch: Batch = await door.scheduler.ask(BatchDeletionAsked(new_reply_to(), door.tenant, batch_id))
    return {"id": batch_id, "object": "batch", "deleted": not batch.active, "status": batch.status.value}


@router.post("/{batch_id}/pause", responses=answers("Batch", 404, 409, 503))
async def pause_batch(batch_id: str, door: TheDoor) -> Json:
    """Start none of its rows; those that run may finish. Everything stays as it is until it is resumed."""
    return await _pause(batch_id, door, on=True)


@router.post("/{batch_id}/resume", responses=answers("Batch", 404, 409, 503))
async def resume_batch(batch_id: str, door: TheDoor) -> Json:
    return await _pause(batch_id, door, on=False)


@router.get("/{batch_id}/logs", responses=answers("LogEntryList", 404, 503))
async def get_logs(batch_id: str, door: TheDoor) -> Json:
    """What happened to the batch, oldest first."""
    entries: tuple[LogEntry, ...] = await door.scheduler.read("log", door.tenant, batch_id)
    return {"object": "list", "data": [log_entry(entry) for entry in entries], "has_more": False}


def log_entry(entry: LogEntry) -> Json:
    """As it is shown."""
    return {"at": entry.at, "kind": entry.kind, "message": entry.message, "engine": entry.engine_id}


async def _pause(batch_id: str, door: Door, on: bool) -> Json:
    await door.scheduler.ask(PauseAsked(new_reply_to(), door.tenant, batch_id, on))
    return shown(await door.scheduler.read("view", door.tenant, batch_id))
