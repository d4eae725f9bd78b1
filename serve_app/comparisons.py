"""``/v1/comparisons``: two to four batches side by side, added up, row by row, and as a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from raybatch.actors.reads import BatchRows
from raybatch.core.model import File
from raybatch.errors import BadRequest
from raybatch.storage.comparison import (
    SHOWN,
    Comparison,
    Figures,
    Row,
    Side,
    compare,
    compared_rows,
    picked_rows,
)
from raybatch.storage.rows_page import TEXT_SHOWN_CHARACTERS
from raybatch.storage.scores import ScoreKind, ScoreRule
from raybatch.wire.openai_objects import Json
from serve_app.door import Door, TheDoor
from serve_app.openapi_schemas import Answers, answers, bytes_answer, refused
from serve_app.parts_read import over_all_parts
from serve_app.results import MEDIA_TYPES
from serve_app.streams import stream, takes_gzip
from serve_app.threads import in_thread

router = APIRouter(prefix="/v1/comparisons", tags=["batches"])

T = TypeVar("T")

OFFSET_MAX = (1 << 62) - 1  #: more than any batch has rows
COUNTED_MAX = 20  #: finish reasons or errors that are told, the most frequent first
ROWS_PER_PIECE = 500
FILE_ANSWERS: Answers = {
    200: bytes_answer(MEDIA_TYPES["jsonl"], MEDIA_TYPES["csv"], headers={"Vary": "Accept-Encoding"}),
    **refused(404, 503),
}

Only = Literal["all", "differing"]


@dataclass(frozen=True, slots=True)
class Asked:
    batch_ids: tuple[str, ...]
    rule: ScoreRule | None


async def _asked(
    door: TheDoor,
    batch_id: Annotated[list[str], Query(min_length=2, max_length=4, description="given two to four times")],
    score: Annotated[
        ScoreKind | None,
        Query(
            description="whether an answer is what was expected, has it, or matches it as a pattern of RE2"
        ),
    ] = None,
    expected: Annotated[str | None, Query(max_length=1_000, description="for every row")] = None,
    sheet_file_id: Annotated[
        str | None, Query(description='an upload of lines {"custom_id", "expected" or "score", "of"}')
    ] = None,
    json_member: Annotated[
        str | None, Query(max_length=200, description="answers are JSON objects: this member is judged")
    ] = None,
) -> Asked:
    if len(set(batch_id)) < len(batch_id):
        raise BadRequest("A batch is named twice.", param="batch_id", code="invalid_value")
    if score is None:
        for name, given in (
            ("expected", expected),
            ("sheet_file_id", sheet_file_id),
            ("json_member", json_member),
        ):
            if given is not None:
                raise BadRequest(f"'{name}' needs 'score'.", param=name, code="invalid_value")
        return Asked(tuple(batch_id), None)
    sheet = None
    if sheet_file_id is not None:
        file: File = await door.scheduler.read("file", door.tenant, sheet_file_id)
        if file.batch_id is not None:
            message = f"{sheet_file_id[:200]} is a batch's own file: expected an uploaded one."
            raise BadRequest(message, param="sheet_file_id", code="invalid_value")
        sheet = door.blobs.path(sheet_file_id)
    rule = ScoreRule(score, expected, sheet, json_member)
    rule.check()
    return Asked(tuple(batch_id), rule)


TheAsked = Annotated[Asked, Depends(_asked)]


@router.get("", responses=answers("Comparison", 404, 503))
async def get_comparison(door: TheDoor, asked: TheAsked) -> Json:
    """What each batch adds up to over its finished rows, and in how many rows their answers differ.

    With ``score`` each answer has one between 0 and 1: ``exact`` and ``contains`` leave case aside, ``given``
    takes the sheet's own. A failed row has 0; a row the sheet does not name has none, and is not in the mean.
    Rows are matched by their place in the input.
    """

    async def read(sides: tuple[Side, ...]) -> Json:
        found = await in_thread(lambda: compare(door.home.root, sides, asked.rule))
        return {
            "object": "comparison",
            "rows": len(found.indices),
            "differing": int(found.differs.sum()),
            "sides": [_shown(*one) for one in zip(sides, found.figures, strict=True)],
        }

    return await _over_sides(door, asked, read)


@router.get("/rows", responses=answers("ComparedRowPage", 404, 503))
async def get_compared_rows(
    door: TheDoor,
    asked: TheAsked,
    offset: Annotated[int, Query(ge=0, le=OFFSET_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    only: Only = "all",
) -> Json:
    """Rows that one of the batches has finished, in input order; ``text`` is cut at 300 characters."""

    async def read(sides: tuple[Side, ...]) -> Json:
        def page() -> Json:
            found: Comparison = compare(door.home.root, sides, asked.rule)
            places = found.rows(only == "differing")
            rows = picked_rows(door.home.root, sides, asked.rule, places[offset : offset + limit])
            return {
                "object": "list",
                "data": [_cut(row) for row in rows],
                "total": len(places),
                "offset": offset,
                "has_more": offset + len(rows) < len(places) and bool(rows),
            }

        return await in_thread(page)

    return await _over_sides(door, asked, read)


@router.get("/results", response_class=Response, responses=FILE_ANSWERS)
async def get_compared_results(
    request: Request,
    door: TheDoor,
    asked: TheAsked,
    format: Literal["jsonl", "csv"] = "jsonl",
    only: Only = "all",
) -> Response:
    """The same rows as a file, with their texts whole. CSV numbers the batches as they were named."""

    async def read(sides: tuple[Side, ...]) -> Response:
        rows = compared_rows(door.home.root, sides, asked.rule)
        pieces = _csv(rows, sides, only) if format == "csv" else _jsonl(rows, sides, only)
        return await stream(
            pieces,
            media_type=MEDIA_TYPES[format],
            filename=f"comparison.{format}",
            gzip=takes_gzip(request, None),
            headers={"Vary": "Accept-Encoding"},
        )

    return await _over_sides(door, asked, read)


async def _over_sides(door: Door, asked: Asked, read: Callable[[tuple[Side, ...]], Awaitable[T]]) -> T:
    async def of_batches(batches: list[BatchRows]) -> T:
        sides = [Side(rows.batch.batch_id, rows.batch.model, rows.visible()) for rows in batches]
        return await read(tuple(sides))

    return await over_all_parts(door, asked.batch_ids, of_batches)


def _shown(side: Side, figures: Figures) -> Json:
    return {
        "batch_id": side.batch_id,
        "model": side.model,
        "completed": figures.completed,
        "failed": figures.failed,
        "prompt_tokens": figures.prompt_tokens,
        "completion_tokens": figures.completion_tokens,
        "completion_tokens_mean": _mean(figures.completion_tokens, figures.completed),
        "text_characters_mean": _mean(figures.text_characters, figures.completed),
        "latency_ms": dict(zip(("p50", "p90", "p99"), figures.latencies_ms, strict=True))
        if figures.latencies_ms
        else None,
        "finish_reasons": dict(figures.finish_reasons.most_common(COUNTED_MAX)),
        "errors": dict(figures.errors.most_common(COUNTED_MAX)),
        "score": figures.score,
        "scored": figures.scored,
    }


def _mean(total: int, count: int) -> float | None:
    return total / count if count else None


def _cut(row: Row) -> Row:
    for answer in row["sides"]:
        if answer is not None and answer["text"] is not None:
            answer["text"] = answer["text"][:TEXT_SHOWN_CHARACTERS]
    return row


# -- as a file -----------------------------------------------------------------------------------------------


def _wanted(rows: Generator[Row], only: Only) -> Iterator[Row]:
    return (row for row in rows if row["differs"] or only == "all")


def _jsonl(rows: Generator[Row], sides: tuple[Side, ...], only: Only) -> Generator[bytes]:
    with closing(rows):
        wanted = _wanted(rows, only)
        while some := list(islice(wanted, ROWS_PER_PIECE)):
            for row in some:
                named = zip(sides, row["sides"], strict=True)
                row["sides"] = [
                    None if one is None else {"batch_id": side.batch_id} | one for side, one in named
                ]
            yield b"".join(msgspec.json.encode(row) + b"\n" for row in some)


def _csv(rows: Generator[Row], sides: tuple[Side, ...], only: Only) -> Generator[bytes]:
    columns = ("batch_id", *SHOWN, "score")
    head = [f"{name}_{number}" for number in range(1, len(sides) + 1) for name in columns]
    lines: list[list[Any]] = [["index", "custom_id", "differs", *head]]
    with closing(rows):
        wanted = _wanted(rows, only)
        while some := list(islice(wanted, ROWS_PER_PIECE)):
            yield _csv_rows(lines + [_csv_row(row, sides) for row in some])
            lines = []
    yield _csv_rows(lines)


def _csv_row(row: Row, sides: tuple[Side, ...]) -> list[Any]:
    cells = [row["index"], row["custom_id"], str(row["differs"]).lower()]
    for side, answer in zip(sides, row["sides"], strict=True):
        cells += [side.batch_id, *((answer or {}).get(name) for name in (*SHOWN, "score"))]
    return cells


def _csv_rows(rows: list[list[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
