"""Two questions about JSON text that its parser does not answer.

Both are answered at memory speed, because intake asks them of every line. Whether the text is JSON at all
stays the parser's business: of other text the answers mean nothing.
"""

from __future__ import annotations

import numpy as np

_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
_STEP = np.zeros(256, np.int8)  #: what a byte does to the depth
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1


def is_utf8(text: bytes) -> bool:
    """msgspec does not look into the strings it skips."""
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_deeper_than(depth_max: int, text: bytes) -> bool:
    """Whether arrays and objects are nested more than ``depth_max`` levels.

    Where a parser gives up depends on how deep its caller's stack is already; this does not.
    """
    if not _has_more_brackets_than(depth_max, text):
        return False  # nearly every line
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(unescaped.translate(None, _NOT_STRUCTURE), np.uint8)
    in_string = (
        np.cumsum(marks == ord('"'), dtype=np.uint8) & 1
    )  # wraps harmlessly: odd or even is all we ask
    steps = _STEP[marks] * (1 - in_string.view(np.int8))
    return bool((np.cumsum(steps, dtype=np.int32) > depth_max).any())


def _has_more_brackets_than(most: int, text: bytes) -> bool:
    """Finding a few is four times as fast as counting them all: it looks at many bytes at once."""
    for bracket in (b"{", b"["):
        at = text.find(bracket)
        while at >= 0:
            most -= 1
            if most < 0:
                return True
            at = text.find(bracket, at + 1)
    return False
