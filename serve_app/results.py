"""``/v1/batches/{id}/results``: the rows that are committed by now, while the batch runs and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal
from uuid import uuid4

from fastapi import APIRouter, Query
from starlette.responses import Response

from raybatch.actors.reads import BatchRows
from raybatch.core.model import PartFile, Tally
from raybatch.errors import BadRequest
from raybatch.storage import exports
from raybatch.storage.merge import Kind
from serve_app.door import Door, TheDoor
from serve_app.streams import stream, vanishing
from serve_app.threads import in_thread

router = APIRouter(prefix="/v1/batches", tags=["batches"])

Format = Literal["jsonl", "csv", "parquet"]

MEDIA_TYPES: dict[Format, str] = {
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}


@router.get("/{batch_id}/results", response_class=Response)
async def get_results(
    batch_id: str,
    door: TheDoor,
    format: Format = "jsonl",
    kind: Kind | None = None,
    after: Annotated[int | None, Query(ge=0, description="leave out the rows up to this index")] = None,
) -> Response:
    """The finished rows in input order. ``jsonl`` has the lines of one ``kind``: ``output`` (the default),
    ``error`` or ``all``; ``csv`` and ``parquet`` have a row for every finished request, with its status.
    """
    if format != "jsonl" and kind not in (None, "all"):
        message = f"Invalid 'kind': '{kind}' goes with format=jsonl only; {format} has the rows of all kinds."
        raise BadRequest(message, param="kind", code="invalid_value")
    rows: BatchRows = await door.scheduler.read("rows", door.tenant, batch_id)
    parts = await in_thread(rows.visible)
    whole_bytes = None
    match format:
        case "jsonl":
            pieces = exports.jsonl(door.home.root, parts, kind or "output", after_index=after)
            whole_bytes = _line_bytes(rows.batch.tally, kind or "output") if after is None else None
        case "csv":
            pieces = exports.csv(door.home.root, parts, after)
        case "parquet":
            pieces = await _parquet(door, parts, after)
    return await stream(
        pieces,
        media_type=MEDIA_TYPES[format],
        filename=f"{batch_id}_results.{format}",
        size_bytes=whole_bytes,
    )


async def _parquet(door: Door, parts: Sequence[PartFile], after: int | None) -> Iterator[bytes]:
    """Parquet ends with its table of contents, so the file is made first; it has no name while it is sent."""
    out: Path = door.home.scratch / f"{uuid4().hex}.parquet"

    def written() -> Iterator[bytes]:
        out.parent.mkdir(parents=True, exist_ok=True)
        exports.parquet(door.home.root, parts, out, after)
        return vanishing(out)

    return await in_thread(written)


def _line_bytes(tally: Tally, kind: Kind) -> int:
    output = tally.output_bytes if kind != "error" else 0
    return output + (tally.error_bytes if kind != "output" else 0)
