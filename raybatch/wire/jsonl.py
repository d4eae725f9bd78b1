"""The physical lines of a JSONL upload, from blocks of bytes that are cut anywhere.

Accepts a UTF-8 byte order mark, CRLF, blank lines and a missing final newline. Refuses to hold more than the
limit and one block of any line: a longer one is counted, not kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    number: int  #: physical line, from 1, blank ones counted
    offset: int  #: of its first byte in the upload
    length: int  #: bytes, without the line's end
    text: bytes | None  #: None when the line is longer than the limit


def read_lines(blocks: Iterable[bytes], line_bytes_max: int) -> Iterator[Line]:
    """Every line that is not blank, in order."""
    number, offset = 0, 0
    for text, length in _split(blocks, line_bytes_max):
        number += 1
        start = offset
        offset += length + 1
        if text is None or len(text) > line_bytes_max:
            yield Line(number, start, length, None)
            continue
        if number == 1 and text.startswith(BYTE_ORDER_MARK):
            text = text.removeprefix(BYTE_ORDER_MARK)
            start += len(BYTE_ORDER_MARK)
        text = text.removesuffix(b"\r")
        if text and not text.isspace():
            yield Line(number, start, len(text), text)


def _split(blocks: Iterable[bytes], line_bytes_max: int) -> Iterator[tuple[bytes | None, int]]:
    """Text and length of every line, the last one included; no text once it has outgrown the limit."""
    begun: list[bytes] = []  #: what earlier blocks hold of the line at hand; empty once it is too long
    begun_bytes = 0
    for block in blocks:
        first, *others = block.split(b"\n")
        begun_bytes += len(first)
        if begun_bytes > line_bytes_max:
            begun.clear()
        else:
            begun.append(first)
        if others:
            yield (b"".join(begun) if begun else None), begun_bytes
            for text in others[:-1]:
                yield text, len(text)
            begun, begun_bytes = [others[-1]], len(others[-1])
    yield (b"".join(begun) if begun or not begun_bytes else None), begun_bytes
