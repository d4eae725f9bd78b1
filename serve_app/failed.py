"""``/v1/batches/{id}/failed`` and ``/retry``: what failed for good and why, and once more."""

from __future__ import annotations

import csv
import io
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from raybatch.actors.reads import BatchRows, BatchView
from raybatch.core.events import RetryAsked
from raybatch.core.model import Batch, RowSpan, Tally
from raybatch.storage.dead_letters import DeadLetter, dead_letters, redrive_spans
from raybatch.wire.batch_params import RetryParams, parse_retry_params
from raybatch.wire.openai_objects import Json, list_object
from serve_app.door import TheDoor, new_file_id, new_reply_to, small_body
from serve_app.openapi_schemas import Answers, answers, bytes_answer, refused
from serve_app.results import MEDIA_TYPES
from serve_app.shown import shown
from serve_app.streams import stream
from serve_app.threads import in_thread

router = APIRouter(prefix="/v1/batches", tags=["batches"])

LETTERS_PER_PIECE = 1_000
INDEX_MAX = (1 << 63) - 1  #: more than a column holds
COLUMNS = [field.name for field in fields(DeadLetter)]
FAILED_ANSWERS: Answers = {
    200: bytes_answer(MEDIA_TYPES["jsonl"], MEDIA_TYPES["csv"], json="DeadLetterList"),
    **refused(404, 503),
}
RETRY_BODY: Json = {
    "type": "object",
    "properties": {
        "error_types": {"type": ["array", "null"], "items": {"type": "string"}, "minItems": 1},
        "custom_ids": {"type": ["array", "null"], "items": {"type": "string"}, "minItems": 1},
    },
    "additionalProperties": False,
}


@router.get("/{batch_id}/failed", response_class=Response, responses=FAILED_ANSWERS)
async def get_failed(
    batch_id: str,
    door: TheDoor,
    format: Literal["json", "jsonl", "csv"] = "json",
    limit: Annotated[int, Query(ge=1, le=1000, description="of one page, with format=json")] = 100,
    after: Annotated[
        int | None, Query(ge=0, le=INDEX_MAX, description="leave out the rows up to this index")
    ] = None,
    error_type: Annotated[list[str] | None, Query(description="may be given again")] = None,
) -> Response:
    """The requests that failed for good, in input order: a page of them, or all as ``jsonl`` or ``csv``."""
    rows: BatchRows = await door.scheduler.read("rows", door.tenant, batch_id)
    parts = await in_thread(rows.visible)
    earlier = rows.parts if rows.redrives else ()
    letters = dead_letters(door.home.root, parts, earlier=earlier, after_index=after, error_types=error_type)
    if format == "json":
        return JSONResponse(await in_thread(lambda: _page(letters, limit)))
    pieces = _csv(letters) if format == "csv" else _jsonl(letters)
    return await stream(pieces, media_type=MEDIA_TYPES[format], filename=f"{batch_id}_failed.{format}")


@router.post(
    "/{batch_id}/retry",
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": RETRY_BODY}}}},
    responses=answers("Batch", 404, 409, 413, 503),
)
async def retry_batch(batch_id: str, request: Request, door: TheDoor) -> Json:
    """Run failed requests of an ended batch again, under new file ids: those that match both
    ``error_types`` and ``custom_ids`` where given, else all.
    """
    params = parse_retry_params(await small_body(request))
    await door.writable()
    rows: BatchRows = await door.scheduler.read("rows", door.tenant, batch_id)
    spans, tally = await in_thread(lambda: _spans(door.home.root, rows, params))
    asked = RetryAsked(
        reply_to=new_reply_to(),
        tenant=door.tenant,
        batch_id=batch_id,
        round=rows.batch.round,
        spans=spans,
        tally=tally,
        output_file_id=new_file_id(),
        error_file_id=new_file_id(),
    )
    batch: Batch = await door.scheduler.ask(asked)
    return shown(BatchView(batch))


def _spans(home: Path, rows: BatchRows, params: RetryParams) -> tuple[tuple[RowSpan, ...], Tally]:
    """Of a batch that cannot be retried none: the scheduler says why."""
    if rows.batch.active or not rows.batch.tally.failed:
        return (), Tally()
    return redrive_spans(home, rows.visible(), params.error_types, params.custom_ids)


def _page(letters: Generator[DeadLetter], limit: int) -> Json:
    with closing(letters):
        found = [asdict(letter) for letter in islice(letters, limit + 1)]
    return list_object(found[:limit], has_more=len(found) > limit, cursor="index")


def _jsonl(letters: Generator[DeadLetter]) -> Generator[bytes]:
    with closing(letters):
        while some := list(islice(letters, LETTERS_PER_PIECE)):
            yield b"".join(msgspec.json.encode(letter) + b"\n" for letter in some)


def _csv(letters: Generator[DeadLetter]) -> Generator[bytes]:
    yield _csv_rows([COLUMNS])
    with closing(letters):
        while some := list(islice(letters, LETTERS_PER_PIECE)):
            yield _csv_rows([[getattr(letter, column) for column in COLUMNS] for letter in some])


def _csv_rows(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
