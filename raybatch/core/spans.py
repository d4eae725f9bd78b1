"""How much of each model's span is cut, finished, or to run again. A batch of one model keeps no spans: its
cursor and its tally say the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from raybatch.core.model import Batch, ModelSpan, RowSpan
from raybatch.core.rows import full
from raybatch.errors import IllegalMove


def cut(batch: Batch, first: int, count: int) -> Batch:
    """The batch once ``count`` rows from ``first`` have become a chunk.

    Raises IllegalMove unless they are the next ones of one model.
    """
    ends = {span.cursor: span for span in batch.by_model if span.uncut}
    if first not in ends or not 0 < count <= ends[first].uncut:
        expected = ", ".join(f"up to {span.uncut} from {span.cursor}" for span in ends.values()) or "none"
        message = f"{count} rows from {first} cannot be cut from {batch.batch_id}: expected {expected}"
        raise IllegalMove(message)
    spans = tuple(replace(span, cut=span.cut + count) if span.holds(first) else span for span in batch.spans)
    return replace(batch, cursor=batch.cursor + count, spans=spans)


def finished(spans: tuple[ModelSpan, ...], rows: Iterable[tuple[int, int]]) -> tuple[ModelSpan, ...]:
    """``rows``: a position of a span, and how many more of its rows are finished; fewer, when negative."""
    if not spans:
        return ()
    pairs = list(rows)
    return tuple(
        replace(span, finished=span.finished + sum(more for position, more in pairs if span.holds(position)))
        for span in spans
    )


def split(spans: tuple[RowSpan, ...], batch: Batch) -> tuple[RowSpan, ...]:
    """The same rows, apart where one model's end and the next one's begin."""
    if not batch.spans:
        return spans
    pieces = (_within(rows, span) for rows in spans for span in batch.spans)
    return tuple(piece for piece in pieces if piece is not None)


def _within(rows: RowSpan, span: ModelSpan) -> RowSpan | None:
    skipped = max(0, span.first - rows.first)
    first = rows.first + skipped
    bitmap = rows.rows >> skipped & full(max(0, span.first + span.count - first))
    return RowSpan(first, bitmap, rows.attempt) if bitmap else None
