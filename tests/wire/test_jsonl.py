from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybatch.wire.jsonl import Line, read_lines

LIMIT = 10


def blocks_of(upload: bytes, size: int) -> list[bytes]:
    return [upload[start : start + size] for start in range(0, len(upload), size)]


def numbers_and_texts(upload: bytes, block_size: int = 1 << 20) -> list[tuple[int, bytes | None]]:
    return [(line.number, line.text) for line in read_lines(blocks_of(upload, block_size), LIMIT)]


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b"bb", b"\n", b"\r", b"\r\n", b" ", b"\xef\xbb\xbf", b"c" * 11])))
def test_lines_do_not_depend_on_where_blocks_are_cut(pieces: list[bytes]) -> None:
    upload = b"".join(pieces)
    whole = list(read_lines([upload], LIMIT))
    for size in (1, 2, 3, 7):
        assert list(read_lines(blocks_of(upload, size), LIMIT)) == whole


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b"bb", b"\n", b"\r", b"\r\n", b" ", b"\xef\xbb\xbf"])))
def test_offset_and_length_address_exactly_the_text(pieces: list[bytes]) -> None:
    upload = b"".join(pieces)
    for line in read_lines([upload], 1 << 20):
        assert upload[line.offset : line.offset + line.length] == line.text
        assert upload[: line.offset].count(b"\n") + 1 == line.number


@pytest.mark.parametrize(
    ("upload", "expected"),
    [
        (b"", []),
        (b"\n \n\r\n\t\n", []),
        (b"one\ntwo", [(1, b"one"), (2, b"two")]),
        (b"one\ntwo\n", [(1, b"one"), (2, b"two")]),
        (b"one\r\n\r\ntwo\r\n", [(1, b"one"), (3, b"two")]),
        (b"\xef\xbb\xbfone\n\xef\xbb\xbftwo", [(1, b"one"), (2, b"\xef\xbb\xbftwo")]),
        (b"\xef\xbb\xbf\n", []),
        (b"x" * LIMIT + b"\n" + b"y" * (LIMIT + 1) + b"\nz", [(1, b"x" * LIMIT), (2, None), (3, b"z")]),
        (b"y" * 500, [(1, None)]),
    ],
)
@pytest.mark.parametrize("block_size", [1, 4, 1 << 20])
def test_blank_lines_ends_and_long_lines(
    upload: bytes, expected: list[tuple[int, bytes | None]], block_size: int
) -> None:
    assert numbers_and_texts(upload, block_size) == expected


def test_a_line_over_the_limit_is_measured_but_not_kept() -> None:
    lines = list(read_lines(iter([b"z" * 1_000] * 1_000), LIMIT))
    assert lines == [Line(number=1, offset=0, length=1_000_000, text=None)]
