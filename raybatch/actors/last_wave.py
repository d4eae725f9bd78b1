"""The order of the last rows of a batch: the longest answers first, so that none of them runs on alone.

Refuses to order what is not the last: before that every place that a row leaves is taken anyway, and the
file's order shows people what they expect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from raybatch.actors.held_lease import RequestRow
from raybatch.wire.prompt_beginnings import DEPTHS, prompt_begin

ROWS_MAX: Final = 2_048  #: an engine with more in line is so fast that its last rows take no time


def longest_first(
    rows: Sequence[RequestRow], endpoint: str, expected: Callable[[RequestRow], float]
) -> list[int]:
    """The places in ``rows``, from first to last. Rows whose prompts begin alike stay together."""
    tokens = [expected(row) for row in rows]
    groups = _alike(rows, endpoint)
    for group in groups:
        group.sort(key=lambda place: -tokens[place])
    groups.sort(key=lambda group: -tokens[group[0]])
    return [place for group in groups for place in group]


def _alike(rows: Sequence[RequestRow], endpoint: str) -> list[list[int]]:
    """Places of rows that begin alike; a beginning that all of them have tells nothing."""
    begins = [prompt_begin(endpoint, row.body) for row in rows]
    for depth in DEPTHS:
        groups: dict[bytes, list[int]] = {}
        for place, (row, begin) in enumerate(zip(rows, begins, strict=True)):
            groups.setdefault(row.body[begin : begin + depth], []).append(place)
        if len(groups) > 1:
            return list(groups.values())
    return [[place] for place in range(len(rows))]
