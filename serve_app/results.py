"""``/v1/batches/{id}/results``: the rows that are committed by now, while the batch runs and after."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Literal
from uuid import uuid4

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from raybatch.actors.reads import BatchRows
from raybatch.core.model import Tally
from raybatch.storage import exports
from raybatch.storage.merge import Kind
from raybatch.storage.seen import NOTHING_SEEN, NewRows, new_rows, parse_cursor
from serve_app.door import Door, TheDoor
from serve_app.openapi_schemas import Answers, bytes_answer, refused
from serve_app.parts_read import over_parts
from serve_app.streams import stream, takes_gzip, vanishing
from serve_app.threads import in_thread

router = APIRouter(prefix="/v1/batches", tags=["batches"])

Format = Literal["jsonl", "csv", "parquet"]

MEDIA_TYPES: dict[Format, str] = {
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}
CURSOR_HEADER = "x-next-after"
RESULTS_ANSWERS: Answers = {
    200: bytes_answer(
        *MEDIA_TYPES.values(), headers={CURSOR_HEADER: "a later request's after", "Vary": "Accept-Encoding"}
    ),
    **refused(404, 503),
}

After = Annotated[
    str | None,
    Query(description=f"leave out the rows that were there when an answer gave this in its {CURSOR_HEADER}"),
]


@router.get("/{batch_id}/results", response_class=Response, responses=RESULTS_ANSWERS)
async def get_results(
    batch_id: str,
    request: Request,
    door: TheDoor,
    format: Format = "jsonl",
    kind: Annotated[Kind | None, Query(description="by default output for jsonl, else all")] = None,
    after: After = None,
) -> Response:
    """The finished rows in input order: as their JSONL lines, or as a table of CSV or Parquet.

    A row's place in the input says nothing about when it is finished. To read each row once while the batch
    runs, pass the header x-next-after of the last answer as ``after``. The cursor stands for all rows that
    were there, whatever ``kind`` was asked for. A row that a retry runs again comes again. CSV holds texts as
    they are: a spreadsheet may take one that begins with = + - or @ for a formula.
    """
    wanted_kind: Kind = kind or ("output" if format == "jsonl" else "all")

    async def read(rows: BatchRows) -> Response:
        new = await in_thread(lambda: _new_rows(door, rows, after))
        known = format == "jsonl" and not after
        size_bytes = _line_bytes(rows.batch.tally, wanted_kind) if known else None
        return await stream(
            await in_thread(lambda: _pieces(door, new, format, wanted_kind)),
            media_type=MEDIA_TYPES[format],
            filename=f"{batch_id}_results.{format}",
            size_bytes=size_bytes,
            gzip=format != "parquet" and takes_gzip(request, size_bytes),
            headers={CURSOR_HEADER: new.cursor, "Vary": "Accept-Encoding"},
        )

    return await over_parts(door, batch_id, read)


def _new_rows(door: Door, rows: BatchRows, after: str | None) -> NewRows:
    seen = parse_cursor(after, rows.batch, rows.redrives) if after else NOTHING_SEEN
    return new_rows(door.home.root, rows.batch, rows.visible(), rows.redrives, seen)


def _pieces(door: Door, new: NewRows, format: Format, kind: Kind) -> Generator[bytes]:
    home = door.home.root
    match format:
        case "jsonl":
            return exports.jsonl(home, new.parts, kind, wanted=new.wanted)
        case "csv":
            return exports.csv(home, new.parts, kind, new.wanted)
        case "parquet":  # it ends with its table of contents, so the file is made first
            out: Path = door.home.scratch / f"{uuid4().hex}.parquet"
            out.parent.mkdir(parents=True, exist_ok=True)
            exports.parquet(home, new.parts, out, kind, new.wanted)
            return vanishing(out)


def _line_bytes(tally: Tally, kind: Kind) -> int:
    output = tally.output_bytes if kind != "error" else 0
    return output + (tally.error_bytes if kind != "output" else 0)
