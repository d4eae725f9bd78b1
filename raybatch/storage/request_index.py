"""Where each request of a batch lies in its upload: one small Parquet row per request, in dispatch order.

The row's number is the request's position. Refuses to hold request bodies: they stay in the immutable upload
and are read by offset.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate, pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raybatch.errors import Corrupt
from raybatch.storage.atomic import atomic_file

ROW_GROUP_ROWS = 4_096
ROW_GROUP_TEXT_CHARACTERS = 4 << 20  #: a group also ends here, or huge custom_ids would pile up in memory
CACHED_ROW_GROUPS = 2  #: leases run on through neighbouring groups
READ_GAP_BYTES = 64 << 10  #: reading this much for nothing is cheaper than a second read
READ_SPAN_BYTES = 4 << 20

SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("line_number", pa.int64(), nullable=False),
        pa.field("custom_id", pa.string()),
        pa.field("expected_tokens", pa.int32(), nullable=False),
        pa.field("error_code", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("error_param", pa.string()),
    ]
)


class IndexEntry(NamedTuple):
    """One request. With ``error_code`` set it must not run: it is answered with that error."""

    index: int  # type: ignore[assignment]  #: place in the input, from 0, blank lines not counted
    offset: int  #: of the line's first byte in the upload
    length: int  #: bytes of the line without its end; 0 when it was too long to be read
    line_number: int  #: physical line, from 1
    custom_id: str | None
    expected_tokens: int  #: prompt and completion together, an estimate
    error_code: str | None = None
    error_message: str | None = None
    error_param: str | None = None


class IndexWriter:
    """Writes an index in bounded memory; the file appears, durable, when the block ends without an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[IndexEntry] = []
        self._text_characters = 0
        self._open_files = ExitStack()

    def __enter__(self) -> Self:
        temporary = self._open_files.enter_context(atomic_file(self._path))
        self._parquet = self._open_files.enter_context(
            pq.ParquetWriter(temporary, SCHEMA, compression="zstd", compression_level=1)
        )
        return self

    def add(self, entry: IndexEntry) -> None:
        self._entries.append(entry)
        self._text_characters += len(entry.custom_id or "")
        if len(self._entries) >= ROW_GROUP_ROWS or self._text_characters >= ROW_GROUP_TEXT_CHARACTERS:
            self._flush()

    def add_table(self, rows: pa.Table) -> None:
        """Rows as ``IndexReader.table`` gives them."""
        self._flush()
        self._parquet.write_table(rows, row_group_size=ROW_GROUP_ROWS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._open_files.__exit__(kind, error, trace)
            return
        with self._open_files:
            self._flush()

    def _flush(self) -> None:
        if not self._entries:
            return
        columns = [
            pa.array(values, type=field.type)
            for values, field in zip(zip(*self._entries, strict=True), SCHEMA, strict=True)
        ]
        self._parquet.write_batch(pa.record_batch(columns, schema=SCHEMA))
        self._entries.clear()
        self._text_characters = 0


class IndexReader:
    """Reads runs of positions; cheap when they follow each other. Not for use by several threads at once."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, pre_buffer=False)
        metadata = self._file.metadata
        group_rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts: list[int] = [
            0,
            *accumulate(group_rows),
        ]  #: first position of every row group, then the total
        self._cached: OrderedDict[int, pa.Table] = OrderedDict()

    @property
    def total(self) -> int:
        """How many requests the batch has."""
        return self._starts[-1]

    def rows(self, first: int, count: int) -> list[IndexEntry]:
        """The entries of positions ``first`` to ``first + count``; positions past the end are left out."""
        stop = min(first + count, self.total)
        entries: list[IndexEntry] = []
        for group, start in enumerate(self._starts[:-1]):
            low, high = max(first, start), min(stop, self._starts[group + 1])
            if low < high:
                entries.extend(_entries(self._row_group(group).slice(low - start, high - low)))
        return entries

    def picked(self, wanted: npt.NDArray[np.bool_]) -> Iterator[IndexEntry]:
        """The entries of the positions where ``wanted``, as long as the index, is true; in their order."""
        for group, (start, stop) in enumerate(pairwise(self._starts)):
            mask = wanted[start:stop]
            if mask.any():
                yield from _entries(self._row_group(group).filter(pa.array(mask)))

    def __iter__(self) -> Iterator[IndexEntry]:
        """Every entry in dispatch order, one row group in memory at a time."""
        for start, stop in pairwise(self._starts):
            yield from self.rows(start, stop - start)

    def stretches(self, bytes_max: int) -> Iterator[tuple[int, int]]:
        """All positions, cut so that the rows of each ``first, stop`` take about ``bytes_max`` in memory."""
        first = size_bytes = 0
        for group, (start, stop) in enumerate(pairwise(self._starts)):
            group_bytes = self._file.metadata.row_group(group).total_byte_size
            if size_bytes and size_bytes + group_bytes > bytes_max:
                yield first, start
                first, size_bytes = start, 0
            size_bytes += group_bytes
            if stop == self.total:
                yield first, stop

    def table(self, first: int, stop: int, order: npt.NDArray[np.int64]) -> pa.Table:
        """The rows of a stretch in another order: ``order`` has the place of each within the stretch."""
        groups = [group for group, start in enumerate(self._starts[:-1]) if first <= start < stop]
        return self._file.read_row_groups(groups, use_threads=False).take(pa.array(order))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _row_group(self, group: int) -> pa.Table:
        if group not in self._cached:
            self._cached[group] = self._file.read_row_group(group, use_threads=False)
            if len(self._cached) > CACHED_ROW_GROUPS:
                self._cached.popitem(last=False)
        self._cached.move_to_end(group)
        return self._cached[group]


def _entries(rows: pa.Table) -> Iterator[IndexEntry]:
    columns = (column.to_pylist() for column in rows.columns)
    return map(IndexEntry._make, zip(*columns, strict=True))


def read_lines(blob: Path, entries: Sequence[IndexEntry]) -> list[bytes]:
    """The upload's lines of ``entries``, in their order, neighbouring lines with one read.

    Raises Corrupt when the upload is shorter than its index says.
    """
    lines: dict[int, bytes] = {}
    descriptor = os.open(blob, os.O_RDONLY)
    try:
        for span in _spans(sorted(entries, key=lambda entry: entry.offset)):
            start = span[0].offset
            stop = max(entry.offset + entry.length for entry in span)
            block = _read_exactly(descriptor, start, stop - start, blob)
            for entry in span:
                lines[entry.offset] = block[entry.offset - start : entry.offset - start + entry.length]
    finally:
        os.close(descriptor)
    return [lines[entry.offset] for entry in entries]


def _spans(entries: Sequence[IndexEntry]) -> Iterator[list[IndexEntry]]:
    """Cut entries, sorted by offset, into runs that are worth one read each."""
    span: list[IndexEntry] = []
    for entry in entries:
        if span:
            end = span[-1].offset + span[-1].length
            too_far = entry.offset - end > READ_GAP_BYTES
            too_long = entry.offset + entry.length - span[0].offset > READ_SPAN_BYTES
            if too_far or too_long:
                yield span
                span = []
        span.append(entry)
    if span:
        yield span


def _read_exactly(descriptor: int, offset: int, length: int, blob: Path) -> bytes:
    blocks: list[bytes] = []
    while length > 0:
        block = os.pread(descriptor, length, offset)
        if not block:
            raise Corrupt(f"{blob.name} ends at byte {offset}, but {length} more bytes were expected there.")
        blocks.append(block)
        offset += len(block)
        length -= len(block)
    return b"".join(blocks)
