"""Intake: one pass over an upload that finds every fault and writes where each request lies.

Flat in memory whatever the upload's size, and idempotent: it may be killed and run again at any time.
Refuses to change the upload, to run anything, and to know about Ray: the caller wraps it.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from raybatch.config import Settings
from raybatch.core.model import LineError, ModelSpan, Validation
from raybatch.storage.request_index import IndexEntry, IndexReader, IndexWriter
from raybatch.wire.batch_faults import (
    duplicate_custom_id,
    empty_file,
    line_too_long,
    mismatched_model,
    too_many_embedding_inputs,
    too_many_tasks,
)
from raybatch.wire.custom_ids import CustomIds, Repeats
from raybatch.wire.embedding_inputs import EMBEDDINGS, embedding_inputs
from raybatch.wire.jsonl import Line, read_lines
from raybatch.wire.prompt_beginnings import PromptBeginnings
from raybatch.wire.request_line import BadLine, CheckedLine, LineChecker

ERRORS_KEPT_MAX = 100
READ_BYTES = 1 << 20
GROUPED_BYTES = 32 << 20  #: of the index, within which rows that begin alike come together


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    requests_max: int = 1_000_000
    line_bytes_max: int = 8 << 20
    embedding_inputs_max: int = 0  #: over all requests; 0: they are not counted
    media_domains: frozenset[str] = frozenset()  #: hosts from which engines may load media


@dataclass(frozen=True, slots=True)
class IntakeTerms:
    """What lines are held against. ``models`` maps served names and aliases to canonical ids.

    Strict: any fault fails the batch, and so do different models. Otherwise a bad line becomes an index row
    that carries its first error, only a fault of the whole upload fails, and the rows of each model lie
    together, in their order.

    With ``group_prefixes`` the index has rows whose prompts begin alike together.
    """

    endpoint: str
    models: Mapping[str, str]
    limits: IntakeLimits
    strict: bool
    group_prefixes: bool = False

    @classmethod
    def of(cls, settings: Settings, endpoint: str, validation: Validation | None = None) -> Self:
        """``validation``: as the batch asks for it; None leaves it to the settings."""
        limits = IntakeLimits(
            settings.scheduler.requests_max,
            settings.intake.line_bytes_max,
            settings.scheduler.embedding_inputs_max if endpoint == EMBEDDINGS else 0,
            settings.media_domains,
        )
        strict = (validation or settings.intake.validation) is Validation.STRICT
        return cls(endpoint, settings.canonical(), limits, strict, settings.intake.group_prefixes)


@dataclass(frozen=True, slots=True)
class IntakeReport:
    """What an upload holds. With ``errors`` the batch fails and there is no index."""

    total: int  #: requests, bad ones included, blank lines not
    model: str | None  #: canonical id; None when no line is a good request, and when ``spans`` name several
    errors: tuple[LineError, ...]  #: in line order, the first ``ERRORS_KEPT_MAX``
    errors_total: int
    expected_tokens: int  #: of the requests that can run
    refused: int = 0  #: index rows that carry an error instead of a request to run
    spans: tuple[ModelSpan, ...] = ()  #: where in the index each model's rows lie, when there are several


def take_in(
    blob: Path,
    index_path: Path,
    *,
    endpoint: str,
    models: Mapping[str, str],
    limits: IntakeLimits,
    strict: bool = True,
) -> IntakeReport:
    """As ``take_in_blocks``, of a file that is whole."""
    return take_in_blocks(blocks(blob), index_path, IntakeTerms(endpoint, models, limits, strict))


def take_in_blocks(blocks: Iterable[bytes], index_path: Path, terms: IntakeTerms) -> IntakeReport:
    """Check every line and write the index of the requests to ``index_path``. Raises what ``blocks`` does."""
    limits = terms.limits
    checker = LineChecker(terms.endpoint, terms.models, limits.media_domains)
    reading = _Reading(checker, terms)
    with closing(checker), IndexWriter(index_path) as index, _no_cycles_sought():
        for line in read_lines(blocks, limits.line_bytes_max):
            entry = reading.take(line)
            if entry is not None:
                index.add(entry)
    repeats = reading.repeats(index_path)
    errors, errors_total = reading.errors(repeats, index_path)
    spans: tuple[ModelSpan, ...] = ()
    if errors:
        index_path.unlink()
    else:
        if len(repeats.row):
            reading.refuse(repeats, index_path)
        spans = reading.group_by_model(index_path)
        reading.group_by_prefix(index_path)
    return IntakeReport(
        total=reading.total,
        model=None if spans else reading.model,
        errors=errors,
        errors_total=errors_total,
        expected_tokens=reading.expected_tokens,
        refused=0 if errors else reading.refused,
        spans=spans,
    )


@contextmanager
def _no_cycles_sought() -> Iterator[None]:
    """Rows that wait to be written form none, and looking through them costs a tenth of the time."""
    sought = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if sought:
            gc.enable()


def blocks(blob: Path) -> Iterator[bytes]:
    """Of a file that is whole."""
    with blob.open("rb", buffering=0) as file:
        while block := file.read(READ_BYTES):
            yield block


class _Reading:
    """What the pass has seen so far."""

    def __init__(self, checker: LineChecker, terms: IntakeTerms) -> None:
        self._checker = checker
        self._limits = terms.limits
        self._strict = terms.strict
        self._beginnings = PromptBeginnings(terms.endpoint) if terms.group_prefixes else None
        self._custom_ids = CustomIds()
        self._line_numbers = array("q")  #: by row of the index
        self._line_errors: list[LineError] = []  #: the first of them
        self._line_errors_total = 0
        self._models: dict[str, int] = {}  #: numbered as they first occur; unless strict, as the next one is
        self._model_numbers = array("H")  #: by row of the index; a bad line goes with the rows before it
        self._model_number = 0  #: of the row at hand
        self.total = 0
        self._embedding_inputs = 0
        self.refused = 0
        self.model: str | None = None
        self.expected_tokens = 0

    def take(self, line: Line) -> IndexEntry | None:
        """The line's row, or None past the largest number of requests: those are only counted."""
        self.total += 1
        if self.total > self._limits.requests_max:
            return None
        checked = self._check(line)
        if not self._strict:
            self._model_numbers.append(self._model_number)
        self._custom_ids.add(checked.custom_id)
        self._line_numbers.append(line.number)
        if self._beginnings is not None:
            self._beginnings.add(line.text if isinstance(checked, CheckedLine) else None)
        length = 0 if line.text is None else line.length
        place = self.total - 1, line.offset, length, line.number, checked.custom_id
        if isinstance(checked, CheckedLine):
            self.expected_tokens += checked.expected_tokens
            if self._limits.embedding_inputs_max and line.text is not None:
                self._embedding_inputs += embedding_inputs(line.text)
            return IndexEntry(*place, checked.expected_tokens)
        if checked.structural:
            self._keep(checked.errors)
        self.refused += 1
        first = checked.errors[0]
        return IndexEntry(*place, 0, first.code, first.message, first.param)

    def repeats(self, index_path: Path) -> Repeats:
        with IndexReader(index_path) as index:
            return self._custom_ids.repeats(entry.custom_id for entry in index)

    def errors(self, repeats: Repeats, index_path: Path) -> tuple[tuple[LineError, ...], int]:
        """What the batch fails for: the first errors in line order, and how many there are."""
        errors = list(self._upload_errors())
        total = len(errors)
        if self._strict:
            errors += self._line_errors
            errors += self._duplicates(repeats, index_path)
            total += self._line_errors_total + len(repeats.row)
        errors.sort(key=lambda error: error.line or 0)  # stable: one line's errors stay in their order
        return _capped(errors, total), total

    def refuse(self, repeats: Repeats, index_path: Path) -> None:
        """Turn every repeated use of a custom_id into a row that carries the error."""
        pending = zip(repeats.row.tolist(), repeats.first_row.tolist(), strict=True)
        row, first_row = next(pending)
        with IndexReader(index_path) as index, IndexWriter(index_path) as rewritten:
            for entry in index:
                if entry.index == row:
                    entry = self._refused_duplicate(entry, first_row)
                    row, first_row = next(pending, (-1, -1))
                rewritten.add(entry)

    def group_by_model(self, index_path: Path) -> tuple[ModelSpan, ...]:
        """Rewrite an index of several models, one after the other; of one model it stays as it is."""
        if len(self._models) < 2:
            return ()
        numbers = np.asarray(self._model_numbers)
        spans: list[ModelSpan] = []
        with IndexReader(index_path) as index, IndexWriter(index_path) as grouped:
            first = 0
            for model, number in self._models.items():
                count = expected_tokens = 0
                for entry in index.picked(numbers == number):
                    grouped.add(entry)
                    count += 1
                    expected_tokens += entry.expected_tokens
                spans.append(ModelSpan(model, first, count, expected_tokens))
                first += count
        return tuple(spans)

    def group_by_prefix(self, index_path: Path) -> None:
        """Rewrite an index in which prompts begin alike; without any it stays as it is."""
        if self._beginnings is None:
            return
        numbers = np.asarray(self._model_numbers) if self._models else np.zeros(len(self._line_numbers), "H")
        self._line_numbers = array("q")  # no fault is named any more, and there is no better time to let go
        rows = np.argsort(numbers, kind="stable")  # by position: as ``group_by_model`` left them
        with IndexReader(index_path) as index:
            stretches = list(index.stretches(GROUPED_BYTES))
            orders = [
                self._beginnings.order(rows[first:stop], numbers[rows[first:stop]])
                for first, stop in stretches
            ]
            if all(np.all(order[1:] > order[:-1]) for order in orders):
                return
            with IndexWriter(index_path) as grouped:
                for (first, stop), order in zip(stretches, orders, strict=True):
                    grouped.add_table(index.table(first, stop, order))

    def _check(self, line: Line) -> CheckedLine | BadLine:
        if line.text is None:
            error = line_too_long(line.number, line.length, self._limits.line_bytes_max)
            return BadLine(None, (error,))
        checked = self._checker.check(line.text, line.number)
        if isinstance(checked, CheckedLine):
            self.model = self.model or checked.model
            if not self._strict:
                self._model_number = self._models.setdefault(checked.model, len(self._models))
            elif checked.model != self.model:
                return BadLine(checked.custom_id, (mismatched_model(line.number, checked.model_named),))
        return checked

    def _keep(self, errors: tuple[LineError, ...]) -> None:
        self._line_errors_total += len(errors)
        self._line_errors += errors[: ERRORS_KEPT_MAX - len(self._line_errors)]

    def _upload_errors(self) -> Iterator[LineError]:
        if self.total == 0:
            yield empty_file()
        if self.total > self._limits.requests_max:
            yield too_many_tasks(self.total, self._limits.requests_max)
        if self._embedding_inputs > self._limits.embedding_inputs_max:
            yield too_many_embedding_inputs(self._embedding_inputs, self._limits.embedding_inputs_max)

    def _duplicates(self, repeats: Repeats, index_path: Path) -> Iterator[LineError]:
        with IndexReader(index_path) as index:
            rows = repeats.row[:ERRORS_KEPT_MAX].tolist()
            for row, first_row in zip(rows, repeats.first_row.tolist(), strict=False):
                yield self._duplicate(index.rows(row, 1)[0], first_row)

    def _duplicate(self, entry: IndexEntry, first_row: int) -> LineError:
        return duplicate_custom_id(entry.line_number, entry.custom_id or "", self._line_numbers[first_row])

    def _refused_duplicate(self, entry: IndexEntry, first_row: int) -> IndexEntry:
        if entry.error_code is not None:
            return entry
        self.refused += 1
        self.expected_tokens -= entry.expected_tokens
        error = self._duplicate(entry, first_row)
        return entry._replace(
            expected_tokens=0, error_code=error.code, error_message=error.message, error_param=error.param
        )


def _capped(errors: list[LineError], total: int) -> tuple[LineError, ...]:
    if total <= ERRORS_KEPT_MAX:
        return tuple(errors)
    *kept, last = errors[:ERRORS_KEPT_MAX]
    message = f"{last.message} (These are the first {ERRORS_KEPT_MAX} of {total:,} errors.)"
    return *kept, replace(last, message=message)
