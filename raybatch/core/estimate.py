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


@dataclass(frozen=True, slots=True)
class Doubt:
    """What a rate leaves open, beside how it varies. It makes the late guess later, the median never."""

    share: float = 0.0  #: of the rate, one deviation: it was measured for a moment only
    last_row_s: float = 0.0  #: so much later than the others the last row may end


NO_DOUBT: Final = Doubt()


def time_left(
    batch: Batch,
    active: Iterable[Batch],
    rates: Mapping[str, ModelRate],
    doubts: Mapping[str, Doubt] | None = None,
) -> Estimate | None:
    """To the batch's last row; None while nothing was measured, and for a batch that is not running.

    ``rates``, ``doubts``: by model. Models are taken to work side by side: a batch of several ends with the
    slowest.
    """
    if batch.status is not BatchStatus.IN_PROGRESS or batch.paused_at is not None or not batch.by_model:
        return None
    others = [other for other in active if other.batch_id != batch.batch_id]
    slowest = Estimate(0.0, 0.0)
    for span in batch.by_model:
        if span.finished == span.count:
            continue
        doubt = NO_DOUBT if doubts is None else doubts.get(span.model, NO_DOUBT)
        rate = rates.get(span.model)
        found = time_for(span.model, span.expected_tokens_left, batch.priority, others, rate, doubt)
        if found is None:
            return None
        slowest = max(slowest, found, key=lambda estimate: estimate.p50_s)
    return slowest


def time_for(
    model: str,
    tokens: float,
    priority: int,
    others: Iterable[Batch],
    rate: ModelRate | None,
    doubt: Doubt = NO_DOUBT,
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
    spread = math.hypot(max(DEVIATION_MIN, rate.deviation / math.sqrt(bins)), doubt.share)
    return Estimate(p50_s, p50_s * (1 + P90_DEVIATIONS * spread) + doubt.last_row_s)
