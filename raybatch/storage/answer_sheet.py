"""What each row of a batch should say, or how somebody scored it: JSON lines, looked up by custom_id.

A line is ``{"custom_id": …, "expected": …}`` or ``{"custom_id": …, "score": …}``; with ``"of"`` (a batch's id
or a model) it is for that one alone. Refuses to hold the lines: twenty bytes each say where they are.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from raybatch.errors import BadRequest

LINES_MAX: Final = 4_000_000  #: of one sheet: 80 MB while it is in use
SHEETS_KEPT: Final = 2


class SheetLine(msgspec.Struct, frozen=True):
    custom_id: str
    expected: str | int | float | bool | None = None
    score: float | None = None
    of: str | None = None


class AnswerSheet:
    """Where two lines are for the same, the first one counts."""

    def __init__(self, path: Path) -> None:
        """Reads the file once. Raises BadRequest naming the first line that is not one of a sheet."""
        self._line = msgspec.json.Decoder(SheetLine)
        hashes, offsets, lengths = array("q"), array("q"), array("i")
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            for number, offset, text in _lines(file):
                line = self._decoded(text, number)
                hashes.append(hash((line.custom_id, line.of)))
                offsets.append(offset)
                lengths.append(len(text))
        order = np.argsort(np.asarray(hashes), kind="stable")
        self._hashes = np.asarray(hashes)[order]
        self._offsets = np.asarray(offsets)[order]
        self._lengths = np.asarray(lengths)[order]

    def lines(self, custom_ids: Sequence[str | None], of: Sequence[str]) -> list[SheetLine | None]:
        """For each row its line: one for the first of ``of`` that has one, else the one for all."""
        found: list[SheetLine | None] = [None] * len(custom_ids)
        for name in (*of, None):
            open_rows = [row for row, line in enumerate(found) if line is None]
            for row, line in self._named(custom_ids, open_rows, name):
                found[row] = line
        return found

    def _named(
        self, custom_ids: Sequence[str | None], rows: Sequence[int], of: str | None
    ) -> Iterator[tuple[int, SheetLine]]:
        hashes = np.fromiter((hash((custom_ids[row], of)) for row in rows), np.int64, len(rows))
        places = np.searchsorted(self._hashes, hashes)
        places[places == len(self._hashes)] = 0
        for at in np.flatnonzero(self._hashes[places] == hashes).tolist():
            row, place = rows[at], int(places[at])
            offset = int(self._offsets[place])
            line = self._line.decode(self._bytes[offset : offset + int(self._lengths[place])])
            if (line.custom_id, line.of) == (custom_ids[row], of):  # a hash is not a name
                yield row, line

    def _decoded(self, text: bytes, number: int) -> SheetLine:
        if number > LINES_MAX:
            raise _no_sheet(number, f"a sheet may have {LINES_MAX:,} lines")
        try:
            line = self._line.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _no_sheet(number, str(error)) from None
        if (line.expected is None) == (line.score is None):
            raise _no_sheet(number, "it needs 'expected' or 'score', one of them")
        return line


@lru_cache(maxsize=SHEETS_KEPT)
def answer_sheet(path: Path) -> AnswerSheet:
    """An upload never changes: read once while it is in use."""
    return AnswerSheet(path)


def _lines(file: Any) -> Iterator[tuple[int, int, bytes]]:
    """Number, offset and text of every line that is not blank."""
    offset = 0
    for number, line in enumerate(file, 1):
        if text := line.strip():
            yield number, offset + line.index(text), text
        offset += len(line)


def _no_sheet(number: int, problem: str) -> BadRequest:
    message = f"Line {number:,} of the file is no line of an answer sheet: {problem}."
    return BadRequest(message, param="sheet_file_id", code="invalid_value")
