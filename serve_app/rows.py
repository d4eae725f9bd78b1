"""``/v1/batches/{id}/rows``: the finished rows a page at a time, as a table wants them, while it runs too."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from raybatch.actors.reads import BatchRows
from raybatch.errors import NotFound
from raybatch.storage.merge import Kind
from raybatch.storage.rows_page import RowQuery, Sort, row_lines, rows_page
from raybatch.wire.openai_objects import Json
from serve_app.door import Door, TheDoor
from serve_app.openapi_schemas import answers
from serve_app.parts_read import over_parts
from serve_app.threads import in_thread

router = APIRouter(prefix="/v1/batches", tags=["batches"])

INDEX_MAX = (1 << 63) - 1  #: more than a column holds
SEARCH_CHARACTERS_MAX = 200
FINISH_REASON_CHARACTERS_MAX = 100
KINDS: dict[str, Kind] = {"all": "all", "completed": "output", "failed": "error"}


@router.get("/{batch_id}/rows", responses=answers("RowPage", 404, 503))
async def get_rows(
    batch_id: str,
    door: TheDoor,
    offset: Annotated[int, Query(ge=0, le=INDEX_MAX >> 1, description="of the first row, in this order")] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    status: Literal["all", "completed", "failed"] = "all",
    search: Annotated[
        str,
        Query(max_length=SEARCH_CHARACTERS_MAX, description="in custom_id, answer or error, in any case"),
    ] = "",
    sort: Annotated[Sort, Query(description="with a minus the largest first")] = "index",
    finish_reason: Annotated[
        str | None,
        Query(max_length=FINISH_REASON_CHARACTERS_MAX, description="as the engine says it: stop, …"),
    ] = None,
    tokens_min: Annotated[int | None, Query(ge=0, le=INDEX_MAX, description="of the answer")] = None,
    tokens_max: Annotated[int | None, Query(ge=0, le=INDEX_MAX, description="of the answer")] = None,
) -> Json:
    """The finished rows that match, by their place in the input unless sorted otherwise. ``text`` is cut at
    300 characters; ``/rows/{index}`` has a row's request and response whole. Rows that finish between two
    pages move those behind them.
    """
    query = RowQuery(KINDS[status], search, sort, finish_reason, tokens_min, tokens_max)

    async def read(rows: BatchRows) -> Json:
        def page() -> Json:
            found = rows_page(
                door.home.root,
                rows.visible(),
                query,
                offset=offset,
                limit=limit,
                batch_rows=rows.batch.total,
            )
            more = offset + len(found.rows) < found.total and bool(found.rows)
            return {
                "object": "list",
                "data": found.rows,
                "total": found.total,
                "offset": offset,
                "has_more": more,
            }

        return await in_thread(page)

    return await over_parts(door, batch_id, read)


@router.get("/{batch_id}/rows/{index}", responses=answers("RowLines", 404, 503))
async def get_row(batch_id: str, index: int, door: TheDoor) -> Json:
    """One finished row: its line of the input and its line of the results, each as it is in the file.
    ``request`` is null when the input's line cannot be read (any more).
    """

    async def read(rows: BatchRows) -> Json:
        return await in_thread(lambda: _row(door, rows, index))

    return await over_parts(door, batch_id, read)


def _row(door: Door, rows: BatchRows, index: int) -> Json:
    batch = rows.batch
    known = 0 <= index < batch.total
    found = (
        row_lines(
            door.home.root,
            rows.visible(),
            index,
            index_path=door.home.index_path(batch.batch_id),
            upload=door.blobs.path(batch.input_file_id),
        )
        if known
        else None
    )
    if found is None:
        raise NotFound(f"No finished row with index {index} in batch '{batch.batch_id}'.", param="index")
    return {"object": "row", "index": index, "request": found.request, "response": found.result}
