"""How many requests an upload holds: its lines that are not blank, counted as the bytes go by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from raybatch.wire.jsonl import BYTE_ORDER_MARK

_TEXT: Final = re.compile(rb"[^ \t\n\r\v\f][^\n]*")  # from a line's first letter to its end


@dataclass(slots=True)
class LineCount:
    """Feed it blocks that are cut anywhere."""

    lines: int = 0
    _mark_left: bytes = BYTE_ORDER_MARK  #: what is still to come of the byte order mark, if there is one
    _counted: bool = False  #: the line at hand counts already

    def feed(self, block: bytes) -> None:
        if self._mark_left:
            block = self._without_mark(block)
        rest_at = block.find(b"\n") if self._counted else 0
        if rest_at < 0:  # still the same line
            return
        last_at = block.rfind(b"\n") + 1
        self.lines += sum(1 for _ in _TEXT.finditer(block, rest_at))
        self._counted = _TEXT.search(block, last_at) is not None

    def _without_mark(self, block: bytes) -> bytes:
        shared = min(len(block), len(self._mark_left))
        if block[:shared] != self._mark_left[:shared]:
            self._mark_left = b""
            return block
        self._mark_left = self._mark_left[shared:]
        return block[shared:]
