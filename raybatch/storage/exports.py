"""Result files as clients download them: JSONL, CSV or Parquet, in input order, streamed in constant memory.

Refuses to decide which rows count and to measure a file first: its size comes from the ledger's tallies.
"""

from __future__ import annotations

import csv as csv_format
import io
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.compute as pc

from raybatch.core.model import PartFile
from raybatch.storage.atomic import atomic_file
from raybatch.storage.merge import Kind, Wanted, merged_batches
from raybatch.storage.parts import SCHEMA, parquet_writer

PIECE_BYTES_MIN = 64 << 10  #: smaller pieces cost the HTTP server more than they carry
PIECE_BYTES_MAX = 1 << 20
MARK_EVERY_BYTES = 1 << 20  #: marks of a file of 8 GB take half a megabyte

TABLE_SCHEMA = pa.schema([field for field in SCHEMA if field.name not in ("line", "position")])


class Marks:
    """Where in one JSONL file some of its rows end: learned by whoever reads it, so that a later reader may
    begin in the middle. For a file that does not change; any number of threads may share it.
    """

    def __init__(self) -> None:
        self._ends = [0]  #: ascending
        self._indices: list[int | None] = [None]  #: of the row that ends there
        self._adding = Lock()

    def before(self, start: int) -> tuple[int, int | None]:
        """The last known end at or before ``start``, and the index of the row that ends there."""
        place = bisect_right(self._ends, start, hi=len(self._indices)) - 1
        return self._ends[place], self._indices[place]

    def add(self, end: int, index: int) -> None:
        """Noted when it is far enough behind the last one."""
        with self._adding:
            if end >= self._ends[-1] + MARK_EVERY_BYTES:
                self._ends.append(end)
                self._indices.append(index)


def jsonl(
    home: Path,
    parts: Sequence[PartFile],
    kind: Kind,
    *,
    start: int = 0,
    stop: int | None = None,
    marks: Marks | None = None,
    wanted: Wanted | None = None,
) -> Generator[bytes]:
    """Bytes ``start`` to ``stop`` (exclusive) of the file of ``kind``: each row's line and a newline.

    The whole file is as long as the parts' tallies say. Pieces have 64 KiB to 1 MiB, the last may be less.
    Reading begins at the last of ``marks`` (of this very file) before ``start``; what lies between is read
    and measured, and not copied.
    """
    marks = marks or Marks()
    position, after_index = marks.before(start)
    batches = merged_batches(home, parts, ["index", "line"], kind, after_index, wanted=wanted)
    with closing(batches):
        yield from _pieces(_window(batches, marks, position, start, stop))


def csv(
    home: Path, parts: Sequence[PartFile], kind: Kind = "all", wanted: Wanted | None = None
) -> Generator[bytes]:
    """All columns but ``line`` and ``position`` after RFC 4180, with a header row; null is an empty field.

    Texts are given as they are: a spreadsheet takes one that begins with ``=``, ``+``, ``-`` or ``@`` for a
    formula.
    """
    batches = merged_batches(home, parts, TABLE_SCHEMA.names, kind, wanted=wanted)
    with closing(batches):
        yield from _pieces(_csv_rows(batches))


def parquet(
    home: Path, parts: Sequence[PartFile], out: Path, kind: Kind = "all", wanted: Wanted | None = None
) -> None:
    """The same columns as one Parquet file at ``out``, which is there whole or not at all."""
    batches = merged_batches(home, parts, TABLE_SCHEMA.names, kind, wanted=wanted)
    with closing(batches), atomic_file(out) as temporary, parquet_writer(temporary, TABLE_SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _window(
    batches: Iterable[pa.RecordBatch], marks: Marks, position: int, start: int, stop: int | None
) -> Iterator[memoryview]:
    """The bytes from ``start`` to ``stop`` of lines that begin at ``position``; no further is read."""
    for batch in batches:
        end = position + (pc.sum(pc.binary_length(batch["line"])).as_py() or 0) + batch.num_rows
        if end > start:
            until = None if stop is None else max(0, stop - position)
            yield _line_bytes(batch)[max(0, start - position) : until]
        marks.add(end, batch["index"][-1].as_py())
        if stop is not None and end >= stop:
            return
        position = end


def _line_bytes(batch: pa.RecordBatch) -> memoryview:
    """The lines of a batch, each with its newline, as the one buffer Arrow joins them into."""
    lines = pc.binary_join_element_wise(batch["line"], pa.scalar(""), pa.scalar("\n"))
    _, offsets, text = lines.buffers()
    ends = memoryview(offsets).cast("i")
    return memoryview(text)[ends[lines.offset] : ends[lines.offset + len(lines)]]


def _csv_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[memoryview]:
    text = io.StringIO(newline="")
    rows = csv_format.writer(text)
    rows.writerow(TABLE_SCHEMA.names)
    for batch in batches:
        rows.writerows(zip(*(_csv_column(column) for column in batch.columns), strict=True))
        yield memoryview(text.getvalue().encode())
        text.seek(0)
        text.truncate()
    yield memoryview(text.getvalue().encode())  # the header of a file without rows


def _csv_column(column: pa.Array) -> list[object]:
    if pa.types.is_timestamp(column.type):
        return [
            f"{instant}Z".replace(" ", "T")
            for instant in column.cast(pa.timestamp("us")).cast(pa.string()).to_pylist()
        ]
    values: list[object] = column.to_pylist()
    return values


def _pieces(buffers: Iterable[memoryview]) -> Iterator[bytes]:
    """The same bytes in pieces that are neither too small nor too large for one write to a client."""
    small: list[memoryview] = []
    small_bytes = 0
    for buffer in buffers:
        for first in range(0, len(buffer), PIECE_BYTES_MAX):
            small.append(buffer[first : first + PIECE_BYTES_MAX])
            small_bytes += len(small[-1])
            if small_bytes >= PIECE_BYTES_MIN:
                yield b"".join(small)
                small, small_bytes = [], 0
    if small_bytes:
        yield b"".join(small)
