"""What an upload has to be before it is taken in: lines, the first of which is JSON. Fed as its bytes go by.

Refuses to judge any other line: intake reads them all, and names each that is bad.
"""

from __future__ import annotations

import msgspec

from raybatch.errors import BadRequest
from raybatch.wire.jsonl import BYTE_ORDER_MARK, read_lines
from serve_app.line_count import LineCount

NOT_JSONL = "Invalid file format for Batch API. Must be .jsonl."


class JsonlCheck:
    """Feed it every block, then ``finish``. Raises BadRequest as soon as the first line is no JSON."""

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._count = LineCount()
        self._head: bytearray | None = bytearray()  #: the file's begin, until its first line is judged
        self.first_line = b""  #: the first that is not blank; empty when it is too long to be held

    @property
    def lines(self) -> int:
        """So far, without blank ones."""
        return self._count.lines

    @property
    def held_bytes(self) -> int:
        """Of the first line."""
        return len(self._head or b"") + len(self.first_line)

    def feed(self, block: bytes) -> None:
        if self._head is not None:
            self._read_head(self._head, block)
        self._count.feed(block)

    def finish(self) -> None:
        """After the last block. Raises BadRequest for a file without a line, too."""
        if self._head is not None:
            self._judge(bytes(self._head))

    def _read_head(self, head: bytearray, block: bytes) -> None:
        head += block
        mark = BYTE_ORDER_MARK if head.startswith(BYTE_ORDER_MARK) else b""
        begun = head[len(mark) :].lstrip(b"\r\n\t ")
        head[:] = mark + begun  # blank lines are not held
        if b"\n" in begun or len(begun) > self._line_bytes_max:
            self._judge(bytes(head))

    def _judge(self, head: bytes) -> None:
        self._head = None
        line = next(read_lines([head], self._line_bytes_max), None)
        if line is None:
            raise _not_jsonl("it holds no line that is not blank")
        if line.text is None:  # longer than a request may be: intake names it and its length
            return
        try:
            msgspec.json.decode(line.text, type=msgspec.Raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _not_jsonl("its first line is not JSON") from None
        self.first_line = line.text


def _not_jsonl(found: str) -> BadRequest:
    return BadRequest(f"{NOT_JSONL} Expected one JSON object a line; {found}.", param="file")
