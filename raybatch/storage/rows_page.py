"""A page of a batch's finished rows: in any of a few orders, filtered, with the request beside the answer.

Which rows a query means is found once, by narrow columns alone, and kept as twelve bytes a row while somebody
scrolls; a page then reads just its own rows. Refuses to decide which files count: the caller brings the parts
as readers of a round see them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raybatch.core.model import PartFile
from raybatch.storage.merge import Kind, merged_batches
from raybatch.storage.parts import ANSWER
from raybatch.storage.request_index import IndexReader, read_lines

Sort = Literal["index", "-index", "latency", "-latency", "tokens", "-tokens", "finished", "-finished"]

TEXT_SHOWN_CHARACTERS: Final = 300  #: of an answer in a list; ``row_lines`` has all of it
QUERIES_KEPT: Final = 4
_SORT_COLUMN: Final = {
    "index": "index",
    "latency": "latency_ms",
    "tokens": "completion_tokens",
    "finished": "finished_at",
}
_SEARCHED: Final = ("custom_id", "text", "error_code", "error_message")
_SHOWN: Final = [
    "index",
    "custom_id",
    *ANSWER,
    "cached_tokens",
    "attempt",
    "engine_id",
    "started_at",
    "finished_at",
    "latency_ms",
]

Row = dict[str, Any]  #: a column's value by its name; instants as seconds since the Unix epoch


@dataclass(frozen=True, slots=True)
class RowQuery:
    """Everything that is given must be so of a row."""

    kind: Kind = "all"
    search: str = ""  #: text that the custom_id, the answer's text or the error has in it, in whatever case
    sort: Sort = "index"
    finish_reason: str | None = None
    tokens_min: int | None = None  #: of the answer
    tokens_max: int | None = None

    @property
    def filters(self) -> tuple[str, ...]:
        """The columns that rows are chosen by."""
        tokens = self.tokens_min is not None or self.tokens_max is not None
        return (
            *(_SEARCHED if self.search else ()),
            *(("finish_reason",) if self.finish_reason is not None else ()),
            *(("completion_tokens",) if tokens else ()),
        )


@dataclass(frozen=True, slots=True)
class RowPage:
    rows: list[Row]
    total: int  #: rows that the query means, on this page or another


@dataclass(frozen=True, slots=True)
class RowLines:
    """Both lines of a row as they are in the files; ``request`` is None where the upload's is unreadable."""

    request: str | None
    result: str


def rows_page(
    home: Path,
    parts: Sequence[PartFile],
    query: RowQuery,
    *,
    offset: int,
    limit: int,
    batch_rows: int | None = None,
) -> RowPage:
    """Rows ``offset`` to ``offset + limit`` of those that ``query`` means.

    ``batch_rows``: how many requests the batch has; when all of them are finished a row's place is its index,
    and nothing is looked for. Raises Corrupt naming the file.
    """
    finished = sum(part.rows - len(part.masked) for part in parts)
    if finished == batch_rows and query == RowQuery():
        wanted = np.arange(offset, min(offset + limit, finished))
        return RowPage(_in_input_order(home, parts, wanted), finished)
    places = _places(home, tuple(parts), query)
    return RowPage(_picked(home, parts, places.page(offset, limit)), len(places.indices))


def row_lines(
    home: Path, parts: Sequence[PartFile], index: int, *, index_path: Path, upload: Path
) -> RowLines | None:
    """Of the finished row at ``index``; None while there is none. Raises Corrupt naming the file."""
    batches = merged_batches(
        home, parts, ["index", "position", "line"], after_index=index - 1, rows_per_batch=1
    )
    with closing(batches):
        found = next(batches, None)
    if found is None or found["index"][0].as_py() != index:
        return None
    request = _request_line(index_path, upload, found["position"][0].as_py())
    return RowLines(request, found["line"][0].as_py())


# -- which rows ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the rows of a query are, in its order: their ``index`` and the number of their file."""

    indices: Any
    files: Any

    def page(self, offset: int, limit: int) -> _Places:
        return _Places(self.indices[offset : offset + limit], self.files[offset : offset + limit])


@lru_cache(maxsize=QUERIES_KEPT)
def _places(home: Path, parts: tuple[PartFile, ...], query: RowQuery) -> _Places:
    """Reads the narrow columns it needs of every file, and the texts where they are searched."""
    key = _SORT_COLUMN[query.sort.removeprefix("-")]
    columns = list(dict.fromkeys(["index", key, *query.filters]))
    indices, keys, files = [np.empty(0, np.int64)], [np.empty(0, np.float64)], [np.empty(0, np.int32)]
    for number, part in enumerate(parts):
        for batch in merged_batches(home, (part,), columns, query.kind):
            found = batch.filter(_matches(batch, query)) if query.filters else batch
            indices.append(found["index"].to_numpy())
            keys.append(_numbers(found[key]))
            files.append(np.full(found.num_rows, number, np.int32))
    index = np.concatenate(indices)
    order = np.lexsort((index, np.concatenate(keys) * (-1 if query.sort.startswith("-") else 1)))
    return _Places(index[order], np.concatenate(files)[order])


def _matches(batch: pa.RecordBatch, query: RowQuery) -> Any:
    matching = pa.array(np.ones(batch.num_rows, np.bool_))
    if query.search:
        found = pa.array(np.zeros(batch.num_rows, np.bool_))
        for name in _SEARCHED:
            held = pc.match_substring(batch[name], query.search, ignore_case=True)
            found = pc.or_(found, pc.fill_null(held, False))
        matching = found
    if query.finish_reason is not None:
        matching = pc.and_(
            matching, pc.fill_null(pc.equal(batch["finish_reason"], query.finish_reason), False)
        )
    if query.tokens_min is not None:
        matching = pc.and_(matching, pc.greater_equal(batch["completion_tokens"], query.tokens_min))
    if query.tokens_max is not None:
        matching = pc.and_(matching, pc.less_equal(batch["completion_tokens"], query.tokens_max))
    return matching


def _numbers(column: pa.Array) -> Any:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return column.to_numpy(zero_copy_only=False).astype(np.float64)


# -- reading them --------------------------------------------------------------------------------------------


def _in_input_order(home: Path, parts: Sequence[PartFile], wanted: Any) -> list[Row]:
    """Rows that follow each other: files that do not overlap them are not read."""
    if not len(wanted):
        return []
    batches = merged_batches(home, parts, _SHOWN, after_index=int(wanted[0]) - 1, rows_per_batch=len(wanted))
    with closing(batches):
        return list(islice((row for batch in batches for row in _shown(batch)), len(wanted)))


def _picked(home: Path, parts: Sequence[PartFile], places: _Places) -> list[Row]:
    """Rows from anywhere, each file opened once and read from its first wanted row to its last."""
    rows: dict[int, Row] = {}
    for number in np.unique(places.files):
        wanted = places.indices[places.files == number]
        rows |= _of_file(home, parts[number], wanted)
    return [rows[int(index)] for index in places.indices]


def _of_file(home: Path, part: PartFile, wanted: Any) -> dict[int, Row]:
    rows: dict[int, Row] = {}
    chosen = pa.array(wanted)
    with closing(merged_batches(home, (part,), _SHOWN, after_index=int(wanted.min()) - 1)) as batches:
        for batch in batches:
            for row in _shown(batch.filter(pc.is_in(batch["index"], chosen))):
                rows[row["index"]] = row
            if len(rows) == len(wanted):
                break
    return rows


def _shown(batch: pa.RecordBatch) -> Iterator[Row]:
    return map(
        _row,
        batch.set_column(
            batch.schema.get_field_index("text"),
            "text",
            pc.utf8_slice_codeunits(batch["text"], 0, TEXT_SHOWN_CHARACTERS),
        ).to_pylist(),
    )


def _row(row: Row) -> Row:
    return row | {name: row[name].timestamp() for name in ("started_at", "finished_at")}


def _request_line(index_path: Path, upload: Path, position: int) -> str | None:
    """None for a line that was too long to be read, and when retention has taken the upload away."""
    try:
        with IndexReader(index_path) as index:
            (entry,) = index.rows(position, 1)
        return read_lines(upload, [entry])[0].decode(errors="replace") if entry.length else None
    except FileNotFoundError:
        return None
