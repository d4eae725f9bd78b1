"""Who holds which chunks, kept up with every change of one: a decision need not look through all of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from raybatch.core.model import Chunk, ChunkState


@dataclass(slots=True)
class Holdings:
    by_holder: dict[str, dict[int, None]] = field(default_factory=dict)  #: ids of leased chunks, by engine
    available: dict[str, dict[int, None]] = field(default_factory=dict)  #: ids of chunks to lease, by batch
    leased_rows: dict[str, int] = field(default_factory=dict)  #: not committed yet, by batch

    def replace(self, before: Chunk | None, after: Chunk) -> None:
        """``before``: how the same chunk looked; None for one that was not live."""
        if before is not None:
            self._forget(before)
        if after.state is ChunkState.AVAILABLE:
            self.available.setdefault(after.batch_id, {})[after.chunk_id] = None
        elif after.state is ChunkState.LEASED:
            assert after.engine_id is not None
            self.by_holder.setdefault(after.engine_id, {})[after.chunk_id] = None
            self._count(after.batch_id, after.missing.bit_count())

    def _forget(self, chunk: Chunk) -> None:
        if chunk.state is ChunkState.AVAILABLE:
            _drop(self.available, chunk.batch_id, chunk.chunk_id)
        elif chunk.state is ChunkState.LEASED:
            assert chunk.engine_id is not None
            _drop(self.by_holder, chunk.engine_id, chunk.chunk_id)
            self._count(chunk.batch_id, -chunk.missing.bit_count())

    def _count(self, batch_id: str, rows: int) -> None:
        counted = self.leased_rows.pop(batch_id, 0) + rows
        if counted:
            self.leased_rows[batch_id] = counted


def _drop(groups: dict[str, dict[int, None]], name: str, chunk_id: int) -> None:
    """What is empty goes, so that two ways to the same chunks are equal."""
    del groups[name][chunk_id]
    if not groups[name]:
        del groups[name]
