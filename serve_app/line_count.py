"""How many requests an upload holds: its lines that are not blank, counted as the bytes go by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from raybatch.wire.jsonl import BYTE_ORDER_MARK

NEWLINE: Final = ord("\n")
_IS_BLANK: Final = np.isin(np.arange(256), list(b" \t\n\r\v\f"))


@dataclass(slots=True)
class LineCount:
    """Feed it blocks that are cut anywhere."""

    lines: int = 0
    _mark_left: bytes = BYTE_ORDER_MARK  #: what is still to come of the byte order mark, if there is one
    _counted: bool = False  #: the line at hand counts already

    def feed(self, block: bytes) -> None:
        if self._mark_left:
            block = self._without_mark(block)
        letters = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(letters == NEWLINE)
        if not len(ends):
            self._go_on(block)
            return
        self._go_on(block[: ends[0]])
        self.lines += _with_text(letters, ends[:-1] + 1, ends[1:])
        self._counted = False
        self._go_on(block[ends[-1] + 1 :])

    def _go_on(self, text: bytes) -> None:
        """With the line at hand."""
        if text and not self._counted and not text.isspace():
            self._counted = True
            self.lines += 1

    def _without_mark(self, block: bytes) -> bytes:
        shared = min(len(block), len(self._mark_left))
        if block[:shared] != self._mark_left[:shared]:
            self._mark_left = b""
            return block
        self._mark_left = self._mark_left[shared:]
        return block[shared:]


def _with_text(letters: Any, starts: Any, stops: Any) -> int:
    """How many of the lines from ``starts`` to ``stops`` are not blank."""
    begins_blank = _IS_BLANK[letters[starts]]  # an empty line begins with its end
    if not begins_blank.any():  # nearly every block
        return len(starts)
    texts = np.concatenate(([0], np.cumsum(~_IS_BLANK[letters], dtype=np.int64)))
    return int(np.count_nonzero(texts[stops] > texts[starts]))
