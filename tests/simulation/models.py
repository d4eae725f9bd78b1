"""Which models the simulated world has, and which of them the rows of an upload name."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from raybatch.core.model import ModelSpan

MODELS: Final = ("small", "large")
SLOT_MODELS: Final = ("small", "large", "huge")
MIXED_ROWS: Final = (90, 301)  #: uploads with so many rows name all models


def spans_of(models: tuple[str, ...], total: int) -> tuple[ModelSpan, ...]:
    """``total``: the rows of the upload, which say what they name."""
    if total not in MIXED_ROWS:
        return (ModelSpan(models[total % len(models)], 0, total, 10 * total),)
    ends = [total * number // len(models) for number in range(len(models) + 1)]
    return tuple(
        ModelSpan(model, first, end - first, 10 * (end - first))
        for model, (first, end) in zip(models, pairwise(ends), strict=True)
    )
