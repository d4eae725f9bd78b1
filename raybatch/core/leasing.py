"""Which rows an engine gets next, and how many in one chunk.

Chunks are cut when they are leased, so their size follows what the engine asks for. Among the batches with
rows for its model the highest priority goes first; among equals the one with the fewest expected tokens
leased, so that a small batch is never stuck behind a large one; then the oldest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from raybatch.core.changes import LeaseGranted
from raybatch.core.commands import Lease
from raybatch.core.credit import credit_rows
from raybatch.core.events import EnginePhase, EngineReport, QuietMode
from raybatch.core.model import CHUNK_ROWS_MAX, Batch, BatchStatus, Chunk, ChunkState, ModelSpan
from raybatch.core.rows import full
from raybatch.core.state import State

CHUNK_ROWS_MIN = 16  #: smaller pieces cost more in bookkeeping than they win in balance


def grant(
    state: State, report: EngineReport, freed: frozenset[int]
) -> tuple[tuple[LeaseGranted, ...], int | None]:
    """Leases for about ``report.wants_rows`` rows, and how many are left then that only this engine may get;
    None when others may get them, too.

    ``freed``: chunks whose lease ends in this decision.
    """
    lots = list(_lots_for(state, report, freed))
    others = _other_engines(state, report)
    engines = 1 + len(others)
    granted: list[LeaseGranted] = []
    token, chunk_id = state.next_token, state.next_chunk_id
    wanted_rows = min(report.wants_rows, _rows_due(report, others, lots))
    piece_rows = max(CHUNK_ROWS_MIN, report.window // 2, report.wants_rows // 4)
    while wanted_rows > 0 and (lots := [lot for lot in lots if lot.has_rows]):
        lot = min(lots, key=lambda lot: (-lot.batch.priority, lot.leased_tokens))
        lease = lot.take(token, chunk_id, report.engine_id, min(piece_rows, wanted_rows), engines)
        granted.append(lease)
        token += 1
        chunk_id = max(chunk_id, lease.chunk_id + 1)
        wanted_rows -= lot.last_rows
    left_rows = sum(lot.free_rows for lot in lots)
    return tuple(granted), None if others and left_rows else left_rows


def has_rows(state: State, report: EngineReport) -> bool:
    """Whether ``grant`` would find any."""
    return any(lot.has_rows for lot in _lots_for(state, report, frozenset()))


def grant_chunk(state: State, chunk: Chunk, engine_id: str) -> LeaseGranted:
    """This chunk alone."""
    return LeaseGranted(chunk.chunk_id, chunk.batch_id, chunk.first, chunk.count, state.next_token, engine_id)


def grant_rest(state: State, batch: Batch, engine_id: str, freed: frozenset[int]) -> tuple[LeaseGranted, ...]:
    """Every row of the batch that is neither committed nor leased, to one holder."""
    granted: list[LeaseGranted] = []
    token, chunk_id = state.next_token, state.next_chunk_id
    for span in batch.by_model:
        lot = _Lot(state, batch, span, freed, engine_id, with_suspects=True)
        while lot.has_rows:
            lease = lot.take(token, chunk_id, engine_id, CHUNK_ROWS_MAX, 1)
            granted.append(lease)
            token += 1
            chunk_id = max(chunk_id, lease.chunk_id + 1)
    return tuple(granted)


def held_up(state: State) -> bool:
    """Nobody gets a row: the server drains, everything is paused, or these are quiet hours."""
    quiet = None if state.surroundings is None else state.surroundings.quiet
    return state.draining or bool(state.all_paused) or quiet is QuietMode.PAUSE


def lease_of(state: State, granted: LeaseGranted) -> Lease:
    """What the holder of a fresh grant needs to know."""
    batch = state.batches[granted.batch_id]
    chunk = state.chunks.get(granted.chunk_id)
    return Lease(
        chunk_id=granted.chunk_id,
        token=granted.token,
        batch_id=batch.batch_id,
        input_file_id=batch.input_file_id,
        endpoint=batch.endpoint,
        first=granted.first,
        count=granted.count,
        rows=full(granted.count) if chunk is None else chunk.missing,
        attempt=1 if chunk is None else chunk.attempt + 1,
        priority=batch.priority,
        row_tokens=max(1.0, batch.span_at(granted.first).expected_row_tokens),
    )


def _lots_for(state: State, report: EngineReport, freed: frozenset[int]) -> Iterator[_Lot]:
    for batch_id in state.active:
        batch = state.batches[batch_id]
        if batch.status is not BatchStatus.IN_PROGRESS or batch.paused_at is not None:
            continue
        for span in batch.by_model:
            if span.model in report.models:
                yield _Lot(state, batch, span, freed, report.engine_id, with_suspects=False)


class _Lot:
    """The rows of one batch and model that may be leased, while a decision hands them out."""

    def __init__(
        self,
        state: State,
        batch: Batch,
        span: ModelSpan,
        freed: frozenset[int],
        engine_id: str,
        *,
        with_suspects: bool,
    ) -> None:
        self.batch = batch
        self.cursor = span.cursor
        self.last_rows = 0
        self._end = span.first + span.count
        self._row_tokens = max(1.0, span.expected_row_tokens)
        freed_chunks = [state.chunks[chunk_id] for chunk_id in sorted(freed)]
        freed_mine = [chunk for chunk in freed_chunks if self._has(chunk, span)]
        available = [chunk for chunk in state.available_chunks(batch.batch_id) if span.holds(chunk.first)]
        idle = [chunk for chunk in (*available, *freed_mine) if with_suspects or not chunk.suspect]
        suspects = [] if with_suspects else [chunk for chunk in (*available, *freed_mine) if chunk.suspect]
        self.idle: list[Chunk] = sorted(idle, key=lambda chunk: chunk.first, reverse=True)
        held = [
            chunk
            for chunk in state.leases_of(engine_id)
            if chunk.chunk_id not in freed and self._has(chunk, span)
        ]
        self.held_rows = _missing_rows(held)  #: by who asks
        leased_rows = _leased_rows(state, batch, span) - _missing_rows(freed_mine)
        self.leased_rows = leased_rows + _missing_rows(suspects)  #: or waiting for a lane of their own

    @property
    def leased_tokens(self) -> float:
        return self.leased_rows * self._row_tokens

    @property
    def left_rows(self) -> int:
        """Leased or not, as long as they are not committed."""
        return self.free_rows + self.leased_rows

    @property
    def free_rows(self) -> int:
        """Held by nobody."""
        return self._end - self.cursor + _missing_rows(self.idle)

    @property
    def has_rows(self) -> bool:
        return bool(self.idle) or self.cursor < self._end

    def take(self, token: int, next_chunk_id: int, engine_id: str, rows: int, engines: int) -> LeaseGranted:
        if self.idle:
            chunk = self.idle.pop()
            chunk_id, first, count = chunk.chunk_id, chunk.first, chunk.count
            self.last_rows = chunk.missing.bit_count()
        else:
            chunk_id, first = next_chunk_id, self.cursor
            count = self.last_rows = self._cut_rows(rows, engines)
            self.cursor += count
        self.leased_rows += self.last_rows
        return LeaseGranted(chunk_id, self.batch.batch_id, first, count, token, engine_id)

    def _has(self, chunk: Chunk, span: ModelSpan) -> bool:
        return chunk.batch_id == self.batch.batch_id and span.holds(chunk.first)

    def _cut_rows(self, rows: int, engines: int) -> int:
        """Several engines share the end of a batch in halves, so that they finish together."""
        left = self._end - self.cursor
        if engines > 1:
            rows = min(rows, max(CHUNK_ROWS_MIN, -(-left // (2 * engines))))
        return min(rows, left, CHUNK_ROWS_MAX)


def _leased_rows(state: State, batch: Batch, span: ModelSpan) -> int:
    """Of one model. They are counted as they change for a batch of one model only."""
    if not batch.spans:
        return state.leased_rows(batch.batch_id)
    live = state.live_chunks(batch.batch_id)
    return _missing_rows(
        [chunk for chunk in live if chunk.state is ChunkState.LEASED and span.holds(chunk.first)]
    )


def _missing_rows(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.missing.bit_count() for chunk in chunks)


def _rows_due(report: EngineReport, others: Sequence[EngineReport], lots: Sequence[_Lot]) -> int:
    """What the engine may have beside what it holds, so that all engines end together.

    It may always fill its window. Rows to wait behind that are its share, by speed, of all that is left: far
    from the end as many as it asks for, and at the end no more than the others would leave it.
    """
    left_rows = sum(lot.left_rows for lot in lots)
    if not others:
        return left_rows
    reports = (report, *others)
    measured = all(one.rows_per_s > 0 for one in reports)
    own, *rest = (one.rows_per_s if measured else one.window for one in reports)
    share = own / (own + sum(rest)) if own else 0.0
    unfinished_rows = credit_rows(report.window, report.rows_per_s) - report.wants_rows
    held_rows = min(max(0, unfinished_rows), sum(lot.held_rows for lot in lots))
    return max(0, max(report.window, math.ceil(share * left_rows)) - held_rows)


def _other_engines(state: State, report: EngineReport) -> list[EngineReport]:
    """Those that are ready and serve the same model."""
    model = report.models[:1]
    return [
        entry.report
        for entry in state.engines.values()
        if entry.report.engine_id != report.engine_id
        and not entry.lost
        and entry.report.phase is EnginePhase.READY
        and entry.report.models[:1] == model
    ]
