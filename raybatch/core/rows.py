"""Bitmaps of rows, as plain integers: bit i is the i-th row of a chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def bitmap_of(offsets: Iterable[int]) -> int:
    bitmap = 0
    for offset in offsets:
        bitmap |= 1 << offset
    return bitmap


def offsets_of(bitmap: int) -> Iterator[int]:
    """The set bits, ascending."""
    while bitmap:
        lowest = bitmap & -bitmap
        yield lowest.bit_length() - 1
        bitmap ^= lowest


def full(count: int) -> int:
    return (1 << count) - 1
