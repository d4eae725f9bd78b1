"""Which rows of a batch a reader has had, as a cursor to go on after.

Rows become results part by part, out of order, and compaction moves them between files. So a cursor is no
place in a list: it says of every row of the newest round whether it was there. Rows of earlier rounds need no
such bit, for a round begins when all rows before it are committed; and a row that runs again is a new row of
its new round. Most rows are dispatched in order, so a cursor takes about one bit for each row that is under
way: some hundred characters. It holds whatever happens meanwhile: compaction, retries, a restart.

Refuses to remember readers: all that is known of one is in the cursor it brings.
"""

from __future__ import annotations

import struct
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from raybatch.core.model import Batch, PartFile, Redrive
from raybatch.core.rows import offsets_of
from raybatch.errors import BadRequest
from raybatch.storage.merge import Wanted, positions

_HEAD: Final = struct.Struct(">IIQ")  #: checksum of batch and rest, round, places seen before the bits begin


@dataclass(frozen=True, slots=True)
class Seen:
    """All rows of the rounds before ``round``, and those of it whose places are True in ``places``."""

    round: int
    places: Any


@dataclass(frozen=True, slots=True)
class NewRows:
    parts: tuple[PartFile, ...]  #: the files with rows not seen yet
    wanted: Wanted | None  #: those rows of them; None: all
    cursor: str  #: to ask after when these were read to their end


NOTHING_SEEN: Final = Seen(1, np.zeros(0, np.bool_))


def parse_cursor(text: str, batch: Batch, redrives: Sequence[Redrive]) -> Seen:
    """Raises BadRequest when it is not a cursor that was given out for this batch."""
    try:
        token = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        checksum, round_, before = _HEAD.unpack_from(token)
        bits = token[_HEAD.size :]
        if checksum != _checksum(batch.batch_id, token) or not 1 <= round_ <= batch.round:
            raise ValueError
        rows = batch.total if round_ == 1 else len(_Places(redrives).of_round(round_))
        rest = zlib.decompressobj().decompress(bits, max(0, rows - before) // 8 + 1) if bits else b""
        places = np.ones(min(before, rows), np.bool_)
    except (ValueError, struct.error, zlib.error):
        message = f"Invalid 'after': '{text[:200]}' is no cursor of this batch. Pass on an x-next-after."
        raise BadRequest(message, param="after", code="invalid_value") from None
    return Seen(round_, np.concatenate([places, np.unpackbits(np.frombuffer(rest, np.uint8)).view(np.bool_)]))


def new_rows(
    home: Path, batch: Batch, parts: Sequence[PartFile], redrives: Sequence[Redrive], seen: Seen
) -> NewRows:
    """What ``parts`` (as readers of the newest round see them) have beyond ``seen``.

    Costs a look at the ``position`` column of the newest round's files. Raises Corrupt naming the file.
    """
    filter_ = _Filter(seen, _Places(redrives))
    fresh: list[PartFile] = []
    newest: list[Any] = []
    for part in parts:
        found = positions(home, part) if part.round in (seen.round, batch.round) else None
        if part.round > seen.round or (found is not None and filter_(part, found).any()):
            fresh.append(part)
        if found is not None and part.round == batch.round:
            newest.append(filter_.places.of(part, found))
    wanted = filter_ if seen.round > 1 or len(seen.places) else None
    return NewRows(tuple(fresh), wanted, _cursor(batch, _also(seen, batch.round, newest)))


class _Places:
    """Rows of a round are numbered: in the first by position, later among those that run again."""

    def __init__(self, redrives: Sequence[Redrive]) -> None:
        self._redrives = {redrive.round: redrive for redrive in redrives}
        self._known: dict[int, Any] = {}

    def of(self, part: PartFile, positions: Any) -> Any:
        return positions if part.round == 1 else np.searchsorted(self.of_round(part.round), positions)

    def of_round(self, round_: int) -> Any:
        """The positions of a later round, ascending."""
        if round_ not in self._known:
            spans = self._redrives[round_].spans
            run_again = (span.first + offset for span in spans for offset in offsets_of(span.rows))
            self._known[round_] = np.unique(np.fromiter(run_again, np.int64))
        return self._known[round_]


@dataclass(frozen=True, slots=True)
class _Filter:
    seen: Seen
    places: _Places

    def __call__(self, part: PartFile, positions: Any) -> Any:
        """Which of a file's positions were not seen."""
        if part.round != self.seen.round:
            return np.full(len(positions), part.round > self.seen.round)
        places = self.places.of(part, positions)
        within = places < len(self.seen.places)
        unseen = ~within
        unseen[within] = ~self.seen.places[places[within]]
        return unseen


def _also(seen: Seen, round_: int, newest: list[Any]) -> Seen:
    before = seen.places if seen.round == round_ else NOTHING_SEEN.places
    places = np.concatenate([np.flatnonzero(before), *newest])
    also = np.zeros(int(places.max(initial=-1)) + 1, np.bool_)
    also[places] = True
    return Seen(round_, also)


def _cursor(batch: Batch, seen: Seen) -> str:
    gaps = np.flatnonzero(~seen.places)
    before = int(gaps[0]) if len(gaps) else len(seen.places)
    bits = np.packbits(seen.places[before:]).tobytes()
    rest = zlib.compress(bits, 9) if bits else b""
    token = _HEAD.pack(0, seen.round, before) + rest
    token = struct.pack(">I", _checksum(batch.batch_id, token)) + token[4:]
    return urlsafe_b64encode(token).rstrip(b"=").decode("ascii")


def _checksum(batch_id: str, token: bytes) -> int:
    return zlib.crc32(token[4:], zlib.crc32(batch_id.encode()))
