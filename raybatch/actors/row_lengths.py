"""How long the answers of one batch's rows will be, learned from those that have ended here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from raybatch.actors.held_lease import RequestRow

GUESSED_ROWS: Final = 4.0  #: what a guess from all rows weighs beside rows that are alike


@dataclass(slots=True)
class _Sum:
    tokens: int = 0  #: answered
    limit_tokens: int = 0  #: that might have been


class RowLengths:
    """Rows are alike when their limits and their sizes are, to a factor of two.

    What is learned is the share of its limit that a row answers, so limits tell the rows apart from the
    beginning, and where they are all the same only what has been seen does.
    """

    def __init__(self) -> None:
        self._all = _Sum()
        self._alike: dict[tuple[int, int], _Sum] = {}

    def note(self, row: RequestRow, tokens: int) -> None:
        """``tokens``: of its answer."""
        for seen in (self._all, self._alike.setdefault(_kind(row), _Sum())):
            seen.tokens += tokens
            seen.limit_tokens += row.limit_tokens

    def expected(self, row: RequestRow) -> float:
        """Tokens of its answer; 0 where it has no tokens, as an embedding."""
        if not row.limit_tokens:
            return 0.0
        guess = self._all.tokens / self._all.limit_tokens if self._all.limit_tokens else 1.0
        seen = self._alike.get(_kind(row), _Sum())
        guessed_limit = GUESSED_ROWS * row.limit_tokens
        share = (seen.tokens + guess * guessed_limit) / (seen.limit_tokens + guessed_limit)
        return share * row.limit_tokens


def _kind(row: RequestRow) -> tuple[int, int]:
    return row.limit_tokens.bit_length(), len(row.body).bit_length()
