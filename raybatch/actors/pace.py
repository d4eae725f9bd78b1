"""How fast work moves: each batch over the last half minute, each model as a smoothed rate and its spread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from raybatch.core.estimate import BIN_S
from raybatch.core.model import Batch, BatchStatus, ModelRate

SPAN_S: Final = 30.0
NEWEST_WEIGHT: Final = 0.3  #: of the newest measurement in a rate


@dataclass(frozen=True, slots=True)
class BatchPace:
    rows_per_s: float = 0.0  #: committed over the last half minute
    tokens_per_s: float = 0.0  #: completion tokens


@dataclass(slots=True)
class _Bin:
    """What a model's engines came to while they were busy, since the last measurement."""

    busy_s: float = 0.0
    tokens: float = 0.0  #: expected ones of the rows that finished
    rows: int = 0


class Pace:
    def __init__(self) -> None:
        self._samples: dict[str, deque[tuple[float, int, int]]] = {}
        self._seen: dict[str, Batch] = {}  #: active at the last look
        self._seen_mono = 0.0
        self._bins: dict[str, _Bin] = {}

    def batch(self, batch: Batch) -> BatchPace:
        samples = self._samples.get(batch.batch_id)
        if not samples or batch.status is not BatchStatus.IN_PROGRESS:
            return BatchPace()
        span_s = samples[-1][0] - samples[0][0]
        if span_s <= 0:
            return BatchPace()
        return BatchPace((samples[-1][1] - samples[0][1]) / span_s, (samples[-1][2] - samples[0][2]) / span_s)

    def note(
        self,
        active: Iterable[Batch],
        ended: Iterable[Batch],
        busy: Collection[str],
        rates: dict[str, ModelRate],
        now_mono: float,
    ) -> tuple[ModelRate, ...]:
        """Call once or twice a second. Answers the rates that were measured anew.

        ``ended``: batches active at the last call and no longer. ``busy``: models that have rows running.
        """
        batches = {batch.batch_id: batch for batch in active}
        passed_s = now_mono - self._seen_mono if self._seen_mono else 0.0
        for model in busy:
            self._bins.setdefault(model, _Bin()).busy_s += passed_s
        for batch in (*batches.values(), *ended):
            self._count(batch)
        self._keep_samples(batches, now_mono)
        self._seen, self._seen_mono = batches, now_mono
        return tuple(self._measured(model, rates.get(model)) for model in self._full_bins())

    @property
    def seen(self) -> Collection[str]:
        """Ids of the batches that were active at the last look."""
        return self._seen

    def _count(self, batch: Batch) -> None:
        before = self._seen.get(batch.batch_id)
        if before is None:
            return
        finished = {span.model: span.finished for span in before.by_model}
        for span in batch.by_model:
            if span.model in self._bins:
                rows = max(0, span.finished - finished.get(span.model, 0))
                counted = self._bins[span.model]
                counted.rows += rows
                counted.tokens += rows * span.expected_row_tokens

    def _keep_samples(self, batches: dict[str, Batch], now_mono: float) -> None:
        kept = {}
        for batch in batches.values():
            before = self._seen.get(batch.batch_id)
            same_round = before is not None and before.round == batch.round
            samples = self._samples.get(batch.batch_id, deque()) if same_round else deque()
            samples.append((now_mono, batch.finished_rows, batch.tally.usage.completion_tokens))
            while now_mono - samples[0][0] > SPAN_S:
                samples.popleft()
            kept[batch.batch_id] = samples
        self._samples = kept

    def _full_bins(self) -> list[str]:
        return [model for model, counted in self._bins.items() if counted.busy_s >= BIN_S]

    def _measured(self, model: str, known: ModelRate | None) -> ModelRate:
        counted = self._bins.pop(model)
        tokens_per_s, rows_per_s = counted.tokens / counted.busy_s, counted.rows / counted.busy_s
        if known is None or known.tokens_per_s <= 0:
            return ModelRate(model, tokens_per_s, 0.0, rows_per_s, time.time())
        off = abs(tokens_per_s / known.tokens_per_s - 1)
        return ModelRate(
            model,
            _smoothed(known.tokens_per_s, tokens_per_s),
            _smoothed(known.deviation, min(off, 1.0)),
            _smoothed(known.rows_per_s, rows_per_s),
            time.time(),
        )


def _smoothed(known: float, newest: float) -> float:
    return known + NEWEST_WEIGHT * (newest - known)
