from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from serve_app.streams import ahead


class Source:
    """Pieces, which of them were made, and whether the maker was told to stop."""

    def __init__(self, *pieces: bytes, fault: Exception | None = None) -> None:
        self._pieces, self._fault = pieces, fault
        self.closed = False
        self.second_made = threading.Event()

    def pieces(self) -> Generator[bytes]:
        try:
            for number, piece in enumerate(self._pieces):
                if number == 1:
                    self.second_made.set()
                yield piece
            if self._fault is not None:
                raise self._fault
        finally:
            self.closed = True


@pytest.mark.parametrize("pieces", [(), (b"a",), (b"a", b"b", b"c")])
def test_pieces_made_ahead_are_the_same_in_the_same_order(pieces: tuple[bytes, ...]) -> None:
    source = Source(*pieces)
    assert tuple(ahead(source.pieces())) == pieces
    assert source.closed or not pieces


def test_the_next_piece_is_made_while_the_one_before_is_in_use() -> None:
    source = Source(b"a", b"b", b"c")
    pieces = ahead(source.pieces())
    assert next(pieces) == b"a"
    assert source.second_made.wait(60)
    assert next(pieces) == b"b"
    pieces.close()
    assert source.closed


def test_a_fault_on_the_way_arrives_in_its_place() -> None:
    pieces = ahead(Source(b"a", fault=OSError("the disk")).pieces())
    assert next(pieces) == b"a"
    with pytest.raises(OSError, match="the disk"):
        next(pieces)
