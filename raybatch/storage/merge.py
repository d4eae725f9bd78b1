"""Many files sorted by ``index`` read as one, in input order and constant memory.

Refuses to decide which files and rows count: the caller brings the manifest's files with their masked
positions. Every file is verified before it is parsed, and every page again as it is read: a damaged file
raises Corrupt and is not served.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raybatch.core.model import PartFile
from raybatch.errors import Corrupt
from raybatch.storage.parts import sound_part

Kind = Literal["all", "output", "error"]
Wanted = Callable[[PartFile, Any], Any]  #: of a file and some of its positions: which of them, as booleans

#: decoded rows held at once, shared by the files that interleave; Arrow takes several times that
LOADED_BYTES_MAX = 4 << 20
READ_AHEAD_BYTES = 256 << 10  #: of each column of each file; without it Arrow reads whole column chunks


def merged_batches(
    home: Path,
    parts: Sequence[PartFile],
    columns: Sequence[str],
    kind: Kind = "all",
    after_index: int | None = None,
    rows_per_batch: int = 5_000,
    wanted: Wanted | None = None,
) -> Generator[pa.RecordBatch]:
    """The rows of ``parts`` by ``index``, as record batches of ``columns``, at most ``rows_per_batch`` each.

    ``kind`` keeps the completed ("output") or the failed ("error") rows; those up to ``after_index`` are left
    out, and those not ``wanted``. All files are opened at the first step, so they stay readable when
    compaction removes them meanwhile; they are closed at the end, or when the iterator is closed. Raises
    Corrupt naming the file.
    """
    with ExitStack() as open_files:
        files = [(part, open_files.enter_context(_opened(home, part))) for part in parts]
        bytes_max = LOADED_BYTES_MAX // _interleaved([file.metadata for _, file in files])
        runs = []
        for part, file in files:
            rows = _Rows(part, columns, kind, after_index, wanted, bytes_max, rows_per_batch)
            runs.append(_Run(rows.lowest(file), rows.read(file)))
        for batch in _in_order(runs):
            for first in range(0, batch.num_rows, rows_per_batch):
                yield batch.slice(first, rows_per_batch).select(columns)


def positions(home: Path, part: PartFile) -> Any:
    """The positions of the rows in a file that count, as an array. Raises Corrupt naming the file."""
    with _opened(home, part) as file, _corrupt_names(part):
        found = file.read(["position"], use_threads=False)["position"].to_numpy()
    return found[~np.isin(found, part.masked)] if part.masked else found


def _interleaved(footers: Sequence[pq.FileMetaData]) -> int:
    """How many files at the most hold rows around the same ``index``; 1 where they follow each other."""
    ends: list[tuple[int, int]] = []
    for footer in footers:
        if footer.num_row_groups:
            ends.append((_index_statistics(footer, 0).min, 1))
            ends.append((_index_statistics(footer, footer.num_row_groups - 1).max + 1, -1))
    return max(accumulate(step for _, step in sorted(ends)), default=1)


def _in_order(runs: Sequence[_Run]) -> Iterator[pa.RecordBatch]:
    """Each round gives all rows up to the smallest index at which some run would have to be read on."""
    while live := [run for run in runs if not run.ended]:
        if loaded := _loaded(live):
            cut = min(run.high for run in loaded)
            yield from _sorted([run.take(cut) for run in loaded if run.low <= cut])


def _loaded(live: Sequence[_Run]) -> list[_Run]:
    """Load the runs that may hold the next rows and no other: runs that follow each other cost one buffer."""
    loaded: list[_Run] = []
    cut: float = math.inf
    for run in sorted(live, key=lambda run: run.low):
        if run.low > cut:
            break
        if run.load():
            loaded.append(run)
            cut = min(cut, run.high)
    return loaded


def _sorted(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The same rows by ``index``; copied only where the batches interleave."""
    batches = sorted(batches, key=lambda batch: _indices(batch)[0])
    if all(_indices(left)[-1] <= _indices(right)[0] for left, right in pairwise(batches)):
        return batches
    rows = pa.concat_batches(batches)
    return [rows.take(pa.array(np.argsort(_indices(rows), kind="stable")))]


class _Run:
    """The rows one file has still to give, and a lower bound of their ``index``."""

    def __init__(self, low: int, batches: Iterator[pa.RecordBatch]) -> None:
        self.low = low
        self.high = low  #: the last ``index`` at hand, once ``load`` has answered True
        self.ended = False
        self._batches = batches
        self._batch: Any = None

    def load(self) -> bool:
        """Have rows at hand; False when there are no more."""
        if self._batch is None:
            self._batch = next(self._batches, None)
            self.ended = self._batch is None
            if self._batch is not None:
                indices = _indices(self._batch)
                self.low, self.high = int(indices[0]), int(indices[-1])
        return not self.ended

    def take(self, cut: int) -> pa.RecordBatch:
        """Give away the rows at hand whose ``index`` is at most ``cut``."""
        batch, indices = self._batch, _indices(self._batch)
        count = int(np.searchsorted(indices, cut, side="right"))
        whole = count == len(indices)
        self.low = cut + 1 if whole else int(indices[count])
        self._batch = None if whole else batch.slice(count)
        return batch.slice(0, count)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Which rows of one file are wanted, and how many to decode at once."""

    part: PartFile
    columns: Sequence[str]
    kind: Kind
    after_index: int | None
    wanted: Wanted | None
    bytes_max: int
    rows_max: int

    def lowest(self, file: pq.ParquetFile) -> int:
        """A lower bound of ``index`` among the wanted rows, from the footer alone."""
        groups = self._row_groups(file.metadata)
        return _index_statistics(file.metadata, groups[0]).min if groups else 0

    def read(self, file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
        """The wanted rows, in batches that are never empty."""
        batches = file.iter_batches(
            batch_size=self._rows_at_once(file.metadata),
            row_groups=self._row_groups(file.metadata),
            columns=self._needed(),
            use_threads=False,
        )
        masked = pa.array(self.part.masked, pa.int64())
        last = -1
        while (batch := self._next(batches)) is not None:
            indices = _indices(batch)
            if indices[0] <= last or np.any(np.diff(indices) <= 0):
                raise Corrupt(f"{self.part.path} is not sorted by index, as every result file is.")
            last = indices[-1]
            if (wanted := self._filter(batch, masked)).num_rows:
                yield wanted

    def _row_groups(self, footer: pq.FileMetaData) -> list[int]:
        after = -1 if self.after_index is None else self.after_index
        return [i for i in range(footer.num_row_groups) if _index_statistics(footer, i).max > after]

    def _needed(self) -> list[str]:
        """The columns asked for, and those that order and filter."""
        by_position = bool(self.part.masked) or self.wanted is not None
        filters = ["status_code"] * (self.kind != "all") + ["position"] * by_position
        return list(dict.fromkeys(["index", *filters, *self.columns]))

    def _rows_at_once(self, footer: pq.FileMetaData) -> int:
        needed = set(self._needed())
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        row_bytes = sum(
            chunk.total_uncompressed_size / footer.num_rows
            for chunk in chunks
            if chunk.path_in_schema in needed
        )
        return max(1, min(self.rows_max, int(self.bytes_max / max(1.0, row_bytes))))

    def _next(self, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
        with _corrupt_names(self.part):
            return next(batches, None)

    def _filter(self, batch: pa.RecordBatch, masked: pa.Array) -> pa.RecordBatch:
        keep = []
        if self.after_index is not None:
            keep.append(pc.greater(batch["index"], self.after_index))
        if self.part.masked:
            keep.append(pc.invert(pc.is_in(batch["position"], masked)))
        if self.kind != "all":
            completed = pc.fill_null(pc.less(batch["status_code"], 400), False)
            keep.append(completed if self.kind == "output" else pc.invert(completed))
        if self.wanted is not None:
            keep.append(pa.array(self.wanted(self.part, batch["position"].to_numpy())))
        for mask in keep[1:]:
            keep[0] = pc.and_(keep[0], mask)
        kept = batch.select(list(dict.fromkeys(["index", *self.columns])))
        if keep and keep[0].true_count < len(keep[0]):  # most files are wanted whole: then nothing is copied
            kept = kept.filter(keep[0])
        return kept


@contextmanager
def _opened(home: Path, part: PartFile) -> Iterator[pq.ParquetFile]:
    path = sound_part(home, part)
    with _corrupt_names(part):
        file = pq.ParquetFile(
            path, pre_buffer=False, buffer_size=READ_AHEAD_BYTES, page_checksum_verification=True
        )
    with file:
        if file.metadata.num_rows != part.rows:
            raise Corrupt(f"{part.path} has {file.metadata.num_rows} rows: expected {part.rows}.")
        yield file


@contextmanager
def _corrupt_names(part: PartFile) -> Iterator[None]:
    """Arrow tells of a damaged file by either exception, and does not name it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(f"{part.path} cannot be read: {error}") from error


def _index_statistics(footer: pq.FileMetaData, row_group: int) -> Any:
    """``min`` and ``max`` of ``index``, which is the first column of every result file."""
    return footer.row_group(row_group).column(0).statistics


def _indices(batch: pa.RecordBatch) -> Any:
    return batch["index"].to_numpy()
