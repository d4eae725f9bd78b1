"""Chunks over some positions of a stretch only: the others count as covered, so that no engine runs them."""

from __future__ import annotations

from dataclasses import replace

from raybatch.core.model import Chunk, ChunkState, RowSpan
from raybatch.core.rows import full


def redriven(chunk_id: int, batch_id: str, span: RowSpan) -> Chunk:
    """Rows that a retry runs again."""
    return Chunk(
        chunk_id,
        batch_id,
        span.first,
        span.count,
        ChunkState.AVAILABLE,
        token=0,
        covered=full(span.count) & ~span.rows,
        attempt=span.attempt,
    )


def suspects(chunk_id: int, chunk: Chunk, rows: int) -> Chunk:
    """Rows of ``chunk`` (a bitmap) that were present at two deaths."""
    return replace(
        chunk,
        chunk_id=chunk_id,
        state=ChunkState.AVAILABLE,
        token=0,
        engine_id=None,
        covered=full(chunk.count) & ~rows,
        exposed=rows,
        suspect=True,
        alone_deaths=0,
    )
