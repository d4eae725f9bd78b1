"""Result files as clients download them: JSONL, CSV or Parquet, in input order, streamed in constant memory.

Refuses to decide which rows count and to measure a file first: its size comes from the ledger's tallies.
"""

from __future__ import annotations

import csv as csv_format
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from raybatch.core.model import PartFile
from raybatch.storage.atomic import atomic_file
from raybatch.storage.merge import Kind, merged_batches
from raybatch.storage.parts import SCHEMA, parquet_writer

PIECE_BYTES_MIN = 64 << 10  #: smaller pieces cost the HTTP server more than they carry
PIECE_BYTES_MAX = 1 << 20

TABLE_SCHEMA = pa.schema([field for field in SCHEMA if field.name not in ("line", "position")])


def jsonl(
    home: Path,
    parts: Sequence[PartFile],
    kind: Kind,
    *,
    start: int = 0,
    stop: int | None = None,
    after_index: int | None = None,
) -> Iterator[bytes]:
    """Bytes ``start`` to ``stop`` (exclusive) of the file of ``kind``: each row's line and a newline.

    The whole file is as long as the parts' tallies say. Pieces have 64 KiB to 1 MiB, the last may be less.
    """
    batches = merged_batches(home, parts, ["line"], kind, after_index)
    with closing(batches):
        yield from _pieces(_window(map(_line_bytes, batches), start, stop))


def csv(home: Path, parts: Sequence[PartFile], after_index: int | None = None) -> Iterator[bytes]:
    """All columns but ``line`` and ``position`` after RFC 4180, with a header row; null is an empty field."""
    batches = merged_batches(home, parts, TABLE_SCHEMA.names, after_index=after_index)
    with closing(batches):
        yield from _pieces(_csv_rows(batches))


def parquet(home: Path, parts: Sequence[PartFile], out: Path, after_index: int | None = None) -> None:
    """The same columns as one Parquet file at ``out``, which is there whole or not at all."""
    batches = merged_batches(home, parts, TABLE_SCHEMA.names, after_index=after_index)
    with closing(batches), atomic_file(out) as temporary, parquet_writer(temporary, TABLE_SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)


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


def _window(buffers: Iterable[memoryview], start: int, stop: int | None) -> Iterator[memoryview]:
    """The bytes of ``buffers`` from ``start`` to ``stop``, reading no further than needed."""
    position = 0
    for buffer in buffers:
        end = position + len(buffer)
        if end > start:
            yield buffer[max(0, start - position) : None if stop is None else max(0, stop - position)]
        if stop is not None and end >= stop:
            return
        position = end


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
