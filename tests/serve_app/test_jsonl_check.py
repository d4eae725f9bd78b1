"""The verdict on an upload's first line does not depend on where its blocks are cut."""

from __future__ import annotations

import pytest

from raybatch.errors import BadRequest
from raybatch.wire.jsonl import BYTE_ORDER_MARK
from serve_app.jsonl_check import JsonlCheck

FIRST = b'{"custom_id": "a", "body": {}}'
GOOD = BYTE_ORDER_MARK + b"\r\n \n\t" + FIRST + b"\r\nnot json\n"


def checked(content: bytes, block_bytes: int) -> JsonlCheck:
    check = JsonlCheck(100)
    for start in range(0, len(content), block_bytes):
        check.feed(content[start : start + block_bytes])
    check.finish()
    return check


@pytest.mark.parametrize("block_bytes", range(1, len(GOOD) + 1))
def test_the_first_line_is_judged_once_it_is_whole(block_bytes: int) -> None:
    check = checked(GOOD, block_bytes)
    assert (check.first_line, check.lines) == (FIRST, 2)


@pytest.mark.parametrize("block_bytes", [1, 7, 1000])
@pytest.mark.parametrize("content", [b"", b" \n\r\n", BYTE_ORDER_MARK, b"\nno json\n{}", b"[" * 60])
def test_what_begins_otherwise_is_refused(content: bytes, block_bytes: int) -> None:
    with pytest.raises(BadRequest, match="one JSON object a line"):
        checked(content, block_bytes)


def test_a_first_line_too_long_to_hold_is_left_to_intake() -> None:
    check = JsonlCheck(100)
    for _ in range(30):
        check.feed(b"[" * 10)
    check.finish()
    assert check.first_line == b""
