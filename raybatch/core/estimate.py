"""When a batch will be done, from measured rates: the median guess and one that nine of ten finishes beat.

Batches of a model share its engines fairly, so a batch waits for what has a higher priority, and beside its
equals for as much of each as it has left itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from raybatch.core.model import Batch, BatchStatus, ModelRate

BIN_S: Final = 15.0  #: over which a rate is measured once
P90_DEVIATIONS: Final = 1.2816  #: of a normal distribution
DEVIATION_MIN: Final = 0.05  #: no rate holds better than that


@dataclass(frozen=True, slots=True)
class Estimate:
    p50_s: float
    p90_s: float


def time_left(batch: Batch, active: Iterable[Batch], rates: Mapping[str, ModelRate]) -> Estimate | None:
    """To the batch's last row; None while nothing was measured, and for a batch that is not running.

    ``rates``: by model. Models are taken to work side by side: a batch of several ends with the slowest.
    """
    if batch.status is not BatchStatus.IN_PROGRESS or batch.paused_at is not None or not batch.by_model:
        return None
    others = [other for other in active if other.batch_id != batch.batch_id]
    slowest = Estimate(0.0, 0.0)
    for span in batch.by_model:
        if span.finished == span.count:
            continue
        found = time_for(span.model, span.expected_tokens_left, batch.priority, others, rates.get(span.model))
        if found is None:
            return None
        slowest = max(slowest, found, key=lambda estimate: estimate.p50_s)
    return slowest


def time_for(
    model: str, tokens: float, priority: int, others: Iterable[Batch], rate: ModelRate | None
) -> Estimate | None:
    """For so many expected tokens beside the batches that run already."""
    if rate is None or rate.tokens_per_s <= 0:
        return None
    ahead = sum(
        span.expected_tokens_left if other.priority > priority else min(span.expected_tokens_left, tokens)
        for other in others
        if other.priority >= priority and other.status is BatchStatus.IN_PROGRESS and other.paused_at is None
        for span in other.by_model
        if span.model == model
    )
    p50_s = (tokens + ahead) / rate.tokens_per_s
    bins = max(1.0, p50_s / BIN_S)
    spread = max(DEVIATION_MIN, rate.deviation / math.sqrt(bins))
    return Estimate(p50_s, p50_s * (1 + P90_DEVIATIONS * spread))
