"""Finished rows of one batch in one Parquet file, sorted by ``index``.

Refuses to decide whether a file counts: the ledger's manifest does, and ``orphans`` tells what it leaves
out. A file is written once, whole or not at all, and never changed; ``verify_part`` and the page checksums
find what a disk did to it since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raybatch.core.model import PartFile, ResultRow
from raybatch.crash_points import crash_point
from raybatch.errors import Corrupt
from raybatch.storage.atomic import TEMPORARY_PREFIX, atomic_file, written_before

ROW_GROUP_ROWS_MAX = 5_000
ROW_GROUP_BYTES_MAX = 16 << 20  #: in memory: what a reader holds must not grow with the length of lines
PAGE_BYTES = 256 << 10  #: a merge holds a page of every file; Parquet's usual 1 MiB would quadruple that

INSTANT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("custom_id", pa.string()),
        pa.field("status_code", pa.int32()),
        pa.field("error_code", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("model", pa.string()),
        pa.field("text", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("prompt_tokens", pa.int64(), nullable=False),
        pa.field("completion_tokens", pa.int64(), nullable=False),
        pa.field("cached_tokens", pa.int64(), nullable=False),
        pa.field("line", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("engine_id", pa.string(), nullable=False),
        pa.field("started_at", INSTANT, nullable=False),
        pa.field("finished_at", INSTANT, nullable=False),
        pa.field("latency_ms", pa.float64(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
    ]
)
#: how a row was answered, or why it was not
ANSWER = (
    "status_code",
    "error_code",
    "error_message",
    "model",
    "text",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
)
_REPETITIVE = ["error_code", "model", "finish_reason", "engine_id"]
_SMALL = [field.name for field in SCHEMA if not pa.types.is_string(field.type)]


def write_part(home: Path, batch_id: str, part_id: str, rows: Sequence[ResultRow]) -> PartFile:
    """Make ``rows`` durable as ``results/batch_id=<batch_id>/<part_id>.parquet`` under ``home``.

    Raises ValueError when an index comes twice or a line is not UTF-8, and OSError when the disk refuses; no
    file is left then.
    """
    ordered = sorted(rows, key=lambda row: row.index)
    for left, right in pairwise(ordered):
        if left.index == right.index:
            raise ValueError(f"{part_path(batch_id, part_id)}: index {left.index} comes twice, expected once")
    return write_batches(home, batch_id, part_id, map(_record_batch, _row_groups(ordered)), level=0)


def write_batches(
    home: Path, batch_id: str, part_id: str, row_groups: Iterator[pa.RecordBatch], *, level: int
) -> PartFile:
    """Write record batches of ``SCHEMA``, already sorted, as one row group each."""
    path = part_path(batch_id, part_id)
    final = home / path
    final.parent.mkdir(parents=True, exist_ok=True)
    rows = 0
    with atomic_file(final) as temporary:
        names = {"raybatch.batch_id": batch_id, "raybatch.part_id": part_id}
        with parquet_writer(temporary, SCHEMA.with_metadata(names)) as writer:
            for row_group in row_groups:
                writer.write_batch(row_group)
                rows += row_group.num_rows
        size_bytes, checksum = temporary.stat().st_size, _checksum(temporary)
        crash_point("part.written")
    return PartFile(part_id, path, size_bytes, rows, checksum, level)


def part_path(batch_id: str, part_id: str) -> str:
    """Where a part lies, relative to the home."""
    return f"{_directory(batch_id)}/{part_id}.parquet"


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """The one set of Parquet options, for ``SCHEMA`` or some of its columns."""
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in _REPETITIVE if name in schema.names],
        write_statistics=[name for name in _SMALL if name in schema.names],
        write_page_checksum=True,
        data_page_size=PAGE_BYTES,
    )


def verify_part(home: Path, part: PartFile) -> None:
    """Read the whole file. Raises Corrupt when it is missing or is not what was committed, byte for byte."""
    path = existing_part(home, part)
    _expect(part, path, _checksum(path))


def sound_part(home: Path, part: PartFile) -> Path:
    """The file of a part, verified once by this process.

    Arrow must be given no other file: a flipped bit in a Parquet footer, which no page checksum covers, can
    abort the process that parses it.
    """
    path = existing_part(home, part)
    stat = path.stat()
    _expect(part, path, _checksum_once(path, stat.st_ino, stat.st_mtime_ns))
    return path


def existing_part(home: Path, part: PartFile) -> Path:
    """The file of a part, after the cheap half of ``verify_part``: it is there and as long as it was."""
    path = home / part.path
    try:
        size_bytes = path.stat().st_size
    except FileNotFoundError:
        expected = f"{part.size_bytes} bytes with {part.rows} rows"
        raise Corrupt(f"{path} is missing: expected {expected}. {_REMEDY}") from None
    if size_bytes != part.size_bytes:
        raise Corrupt(f"{path} has {size_bytes} bytes: expected {part.size_bytes}. {_REMEDY}")
    return path


def remove(home: Path, part: PartFile) -> None:
    """Delete a file the manifest has stopped naming. Silent when it is gone already."""
    (home / part.path).unlink(missing_ok=True)


def orphans(home: Path, batch_id: str, keep: Collection[str], *, before: float) -> list[Path]:
    """Files of a batch that ``keep`` (paths relative to the home) leaves out.

    Only files older than the instant: a young one may be written and not yet reported.
    """
    directory = home / _directory(batch_id)
    if not directory.is_dir():
        return []
    return [
        path
        for path in sorted(directory.iterdir())
        if _is_ours(path) and str(path.relative_to(home)) not in keep and written_before(path, before)
    ]


_REMEDY = "Its rows must run again, or the file must come back from a copy."


def _directory(batch_id: str) -> str:
    return f"results/batch_id={batch_id}"


def _is_ours(path: Path) -> bool:
    return path.suffix == ".parquet" or path.name.startswith(TEMPORARY_PREFIX)


def _expect(part: PartFile, path: Path, found: str) -> None:
    if found != part.checksum:
        raise Corrupt(
            f"{path} was changed after its commit: expected {part.checksum}, found {found}. {_REMEDY}"
        )


@lru_cache(maxsize=4_096)
def _checksum_once(path: Path, inode: int, modified_ns: int) -> str:
    return _checksum(path)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _row_groups(rows: Sequence[ResultRow]) -> Iterator[Sequence[ResultRow]]:
    """Cut where a row group would grow past either limit; one longer row stands alone."""
    first, size_bytes = 0, 0
    for i, row in enumerate(rows):
        row_bytes = len(row.line) + len(row.text or "")
        if i > first and (i - first == ROW_GROUP_ROWS_MAX or size_bytes + row_bytes > ROW_GROUP_BYTES_MAX):
            yield rows[first:i]
            first, size_bytes = i, 0
        size_bytes += row_bytes
    if rows[first:]:
        yield rows[first:]


def _record_batch(rows: Sequence[ResultRow]) -> pa.RecordBatch:
    started_us = [_microseconds(row.started_at) for row in rows]
    finished_us = [_microseconds(row.finished_at) for row in rows]
    derived: dict[str, Sequence[object]] = {
        "started_at": started_us,
        "finished_at": finished_us,
        "latency_ms": [(end - start) / 1000 for start, end in zip(started_us, finished_us, strict=True)],
    }
    columns = [derived.get(field.name) or [getattr(row, field.name) for row in rows] for field in SCHEMA]
    arrays = [_array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _microseconds(instant: float) -> int:
    return round(instant * 1_000_000)


def _array(values: Sequence[object], kind: pa.DataType) -> pa.Array:
    """JSON can spell half a surrogate pair, UTF-8 cannot: a column shows "?" there; ``line`` stays exact."""
    try:
        return pa.array(values, type=kind)
    except UnicodeEncodeError:
        return pa.array([_encodable(value) for value in values], type=kind)


def _encodable(value: object) -> object:
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
