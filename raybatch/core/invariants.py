"""What is true of every state between two events. For tests and the simulator, which ask after each one."""

from __future__ import annotations

from itertools import accumulate

from raybatch.core.holdings import Holdings
from raybatch.core.model import Batch, Chunk, ChunkState
from raybatch.core.rows import offsets_of
from raybatch.core.state import State


def check_invariants(state: State) -> None:
    """Raises AssertionError when the state contradicts itself."""
    for batch in state.batches.values():
        live = state.live_chunks(batch.batch_id)
        missing = sum(chunk.missing.bit_count() for chunk in live)
        assert batch.finished_rows + missing + (batch.total - batch.cursor) == batch.total, batch
        assert 0 <= batch.cursor <= batch.total, batch
        assert (batch.batch_id in state.active) == batch.active, batch
        rows_in_parts = sum(
            part.rows - len(part.masked) for part in state.parts.get(batch.batch_id, {}).values()
        )
        redriven = sum(
            span.rows.bit_count()
            for redrive in state.redrives.get(batch.batch_id, {}).values()
            for span in redrive.spans
        )
        assert rows_in_parts - redriven == batch.finished_rows, (batch, rows_in_parts, redriven)
        if batch.spans:
            _check_spans(batch, live)
        positions = [chunk.first + offset for chunk in live for offset in offsets_of(chunk.missing)]
        assert len(positions) == len(set(positions)), positions
        if not batch.active:
            assert not live, (batch, live)
    tokens = [chunk.token for chunk in state.chunks.values() if chunk.token]  # 0: never leased
    assert len(tokens) == len(set(tokens)), tokens
    assert all(token < state.next_token for token in tokens), tokens
    for chunk_id in state.lease_deadlines:
        assert state.chunks[chunk_id].state is ChunkState.LEASED, chunk_id
    counted = Holdings()
    for chunk in state.chunks.values():
        counted.replace(None, chunk)
    assert state.holdings == counted, (state.holdings, counted)


def _check_spans(batch: Batch, live: list[Chunk]) -> None:
    """Each model's share adds up by itself."""
    ends = [0, *accumulate(span.count for span in batch.spans)]
    assert [span.first for span in batch.spans] == ends[:-1], batch
    assert (ends[-1], batch.model) == (batch.total, None), batch
    assert sum(span.cut for span in batch.spans) == batch.cursor, batch
    assert sum(span.finished for span in batch.spans) == batch.finished_rows, batch
    for span in batch.spans:
        own = [chunk for chunk in live if span.holds(chunk.first)]
        assert all(span.holds(chunk.first + chunk.count - 1) for chunk in own), (span, own)
        missing = sum(chunk.missing.bit_count() for chunk in own)
        assert span.finished + missing + span.uncut == span.count, (span, own)
