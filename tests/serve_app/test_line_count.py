from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raybatch.wire.jsonl import BYTE_ORDER_MARK, read_lines
from serve_app.line_count import LineCount

PIECES = st.sampled_from([b"a", b"{}", b"\n", b"\r\n", b"\n\n", b" ", b"\t", b"\v", "\u0085".encode()])


@given(pieces=st.lists(PIECES, max_size=30), marked=st.booleans(), block_bytes=st.integers(1, 9))
def test_it_counts_the_lines_that_intake_will_find(
    pieces: list[bytes], marked: bool, block_bytes: int
) -> None:
    upload = BYTE_ORDER_MARK * marked + b"".join(pieces)
    count = LineCount()
    for start in range(0, len(upload), block_bytes):
        count.feed(upload[start : start + block_bytes])
    assert count.lines == len(list(read_lines([upload], len(upload))))
