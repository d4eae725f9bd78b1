"""How fast batches move: rows and tokens committed over the last half minute, and what remains."""

from __future__ import annotations

from collections import deque

from raybatch.actors.reads import BatchView
from raybatch.core.model import Batch, BatchStatus

SPAN_S = 30.0


class Pace:
    def __init__(self) -> None:
        self._samples: dict[str, deque[tuple[float, int, int]]] = {}

    def note(self, batches: list[Batch], now_mono: float) -> None:
        """Call about once a second with the active batches; the others are forgotten."""
        kept = {}
        for batch in batches:
            samples = self._samples.get(batch.batch_id, deque())
            samples.append((now_mono, batch.finished_rows, batch.tally.usage.completion_tokens))
            while now_mono - samples[0][0] > SPAN_S:
                samples.popleft()
            kept[batch.batch_id] = samples
        self._samples = kept

    def view(self, batch: Batch) -> BatchView:
        samples = self._samples.get(batch.batch_id)
        if not samples or len(samples) < 2 or batch.status is not BatchStatus.IN_PROGRESS:
            return BatchView(batch)
        span_s = samples[-1][0] - samples[0][0]
        if span_s <= 0:
            return BatchView(batch)
        rows_per_s = (samples[-1][1] - samples[0][1]) / span_s
        tokens_per_s = (samples[-1][2] - samples[0][2]) / span_s
        left = batch.total - batch.finished_rows
        return BatchView(batch, rows_per_s, tokens_per_s, left / rows_per_s if rows_per_s > 0 else None)
