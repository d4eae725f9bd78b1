"""Dead letters: the requests of a batch that failed for good, why, and the spans that run them again.

Refuses to decide which rows count and whether a batch may be retried: the caller brings the parts as readers
of the newest round see them, and the scheduler judges what is asked of it.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raybatch.core.model import CHUNK_ROWS_MAX, PartFile, RowSpan, Tally, Usage
from raybatch.core.rows import bitmap_of
from raybatch.errors import BadRequest
from raybatch.storage.merge import merged_batches

SPAN_ROWS_MAX: Final = 256  #: of one span: several engines share what runs again
NAMED_MAX: Final = 5  #: custom_ids or error types that one message names

_WHY = ["status_code", "error_code", "line"]
_SHOWN = ["index", "custom_id", *_WHY, "error_message", "attempt", "started_at", "finished_at"]
_TALLIED = ["custom_id", *_WHY, "prompt_tokens", "completion_tokens", "cached_tokens", "attempt", "position"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A request that failed for good."""

    index: int  #: place in the input file, from 0
    custom_id: str | None
    error_type: str
    error_code: str | None
    error_message: str | None
    status_code: int | None  #: None when it was never answered
    attempts: int
    first_at: float  #: when it was first started, in whichever round
    last_at: float  #: when it failed the last time


def dead_letters(
    home: Path,
    parts: Sequence[PartFile],
    *,
    earlier: Sequence[PartFile] = (),
    after_index: int | None = None,
    error_types: Collection[str] | None = None,
) -> Generator[DeadLetter]:
    """The failed rows of ``parts`` in input order, those of ``error_types`` where given; memory stays flat.

    ``earlier``: the parts of all rounds with nothing hidden, for a batch that was retried: they tell when a
    request was first started. Raises Corrupt naming the file.
    """
    first = _FirstStarts(home, earlier, after_index)
    with closing(merged_batches(home, parts, _SHOWN, "error", after_index)) as batches, closing(first):
        for batch in batches:
            for index, custom_id, status, code, line, message, attempt, started_us, ended_us in _rows(batch):
                error_type = error_type_of(status, code, line)
                if error_types is None or error_type in error_types:
                    first_at = first.of(index, started_us) / 1_000_000
                    why = (custom_id, error_type, code, message, status)
                    yield DeadLetter(index, *why, attempt, first_at, ended_us / 1_000_000)


def redrive_spans(
    home: Path,
    parts: Sequence[PartFile],
    error_types: Collection[str] | None = None,
    custom_ids: Collection[str] | None = None,
) -> tuple[tuple[RowSpan, ...], Tally]:
    """The failed rows that match all that is given, as spans in dispatch order, and what they add up to.

    Memory grows by a dozen bytes a row. Raises BadRequest for an error type or a custom_id that no failed
    row has.
    """
    chosen = _Chosen(error_types, custom_ids)
    with closing(merged_batches(home, parts, _TALLIED, "error")) as batches:
        for batch in batches:
            chosen.take(batch)
    chosen.check()
    return tuple(_spans(*chosen.places())), chosen.tally


def error_type_of(status_code: int | None, error_code: str | None, line: str) -> str:
    """The envelope's ``error.type`` of an answered request, or the code that says why there is no answer."""
    if status_code is None:
        return error_code or "unknown"
    try:
        told = _ANSWERED.decode(line).response.body.error.type
    except (msgspec.DecodeError, RecursionError):
        told = None
    return told or error_code or f"http_{status_code}"


class _Error(msgspec.Struct):
    type: str | None = None


class _Body(msgspec.Struct):
    error: _Error


class _Response(msgspec.Struct):
    body: _Body


class _Line(msgspec.Struct):
    response: _Response


_ANSWERED = msgspec.json.Decoder(_Line)


# -- why they failed -----------------------------------------------------------------------------------------


class _FirstStarts:
    """When each request was first started; asked in input order. Microseconds since the Unix epoch."""

    def __init__(self, home: Path, earlier: Sequence[PartFile], after_index: int | None) -> None:
        columns = ["index", "started_at"]
        self._batches = merged_batches(home, earlier, columns, "error", after_index) if earlier else None
        self._starts = (row for batch in self._batches or () for row in _rows(batch))
        self._ahead = next(self._starts, None)

    def of(self, index: int, started_us: int) -> int:
        while self._ahead is not None and self._ahead[0] <= index:
            if self._ahead[0] == index:
                started_us = min(started_us, self._ahead[1])
            self._ahead = next(self._starts, None)
        return started_us

    def close(self) -> None:
        if self._batches is not None:
            self._batches.close()


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """The rows as plain values. Instants as microseconds: Python's own cost more than all the rest."""
    columns = (
        column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in batch.columns
    )
    return zip(*(column.to_pylist() for column in columns), strict=True)


# -- what runs again -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Chosen:
    """The rows that match, as they are found in input order."""

    error_types: Collection[str] | None
    custom_ids: Collection[str] | None
    tally: Tally = field(default_factory=Tally)
    _types_seen: dict[str, None] = field(default_factory=dict)
    _ids_seen: set[str] = field(default_factory=set)
    _positions: list[Any] = field(default_factory=list)
    _attempts: list[Any] = field(default_factory=list)

    def take(self, batch: pa.RecordBatch) -> None:
        if self.custom_ids is not None:
            batch = batch.filter(pc.is_in(batch["custom_id"], pa.array(self.custom_ids, pa.string())))
            self._ids_seen.update(batch["custom_id"].to_pylist())
        if self.error_types is not None:
            types = [error_type_of(*why) for why in _rows(batch.select(_WHY))]
            self._types_seen.update(dict.fromkeys(types))
            batch = batch.filter(pa.array([found in self.error_types for found in types], pa.bool_()))
        self.tally += _tally(batch)
        self._positions.append(batch["position"].to_numpy())
        self._attempts.append(batch["attempt"].to_numpy())

    def check(self) -> None:
        """Raises BadRequest naming what was asked for and is not there."""
        if strange := [name for name in self.custom_ids or () if name not in self._ids_seen]:
            message = f"{_named(strange)}: no failed request of this batch has such a custom_id."
            raise BadRequest(message, param="custom_ids", code="invalid_value")
        if strange := [name for name in self.error_types or () if name not in self._types_seen]:
            known = ", ".join(f"'{name}'" for name in self._types_seen) or "none"
            message = f"{_named(strange)}: no failed request has such an error type. Found are: {known}."
            raise BadRequest(message, param="error_types", code="invalid_value")

    def places(self) -> tuple[Any, Any]:
        """Positions, ascending, and the attempt of each."""
        if not self._positions:
            return np.empty(0, np.int64), np.empty(0, np.int32)
        positions, attempts = np.concatenate(self._positions), np.concatenate(self._attempts)
        order = np.argsort(positions, kind="stable")
        return positions[order], attempts[order]


def _tally(batch: pa.RecordBatch) -> Tally:
    def total(values: Any) -> int:
        return int(pc.sum(values).as_py() or 0)

    usage = Usage(*(total(batch[f"{kind}_tokens"]) for kind in ("prompt", "completion", "cached")))
    error_bytes = total(pc.binary_length(batch["line"])) + batch.num_rows
    return Tally(failed=batch.num_rows, error_bytes=error_bytes, usage=usage)


def _named(names: list[str]) -> str:
    shown = ", ".join(f"'{name[:100]}'" for name in names[:NAMED_MAX])
    return f"{shown} and {len(names) - NAMED_MAX:,} more" if len(names) > NAMED_MAX else shown


def _spans(positions: Any, attempts: Any) -> Iterator[RowSpan]:
    first = 0
    while first < len(positions):
        reach = np.searchsorted(positions, positions[first] + CHUNK_ROWS_MAX)
        end = min(int(reach), first + SPAN_ROWS_MAX)
        start = int(positions[first])
        rows = bitmap_of(int(position) - start for position in positions[first:end])
        yield RowSpan(start, rows, int(attempts[first:end].max()))
        first = end
