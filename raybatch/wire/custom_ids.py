"""Which custom_ids a batch uses twice, found with eight bytes a request.

Refuses to keep the ids themselves: they are asked for once more, and only when two have the same hash.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class Repeats(NamedTuple):
    """Two columns of equal length, sorted by ``row``: each repeated use and the first use of the same id."""

    row: Rows
    first_row: Rows


class CustomIds:
    """Add the ids of all requests in order, then ask for the repeats."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, custom_id: str | None) -> None:
        """None: this request has no id and repeats none."""
        self._hashes.append(hash(custom_id))

    def repeats(self, custom_ids: Iterable[str | None]) -> Repeats:
        """Asked once. ``custom_ids``: the same in the same order, read only when some hashes are equal."""
        suspects = self._suspects()
        self._hashes = array("q")
        if not suspects.any():
            return Repeats(np.empty(0, np.int64), np.empty(0, np.int64))
        rows, digests = _digests(suspects, custom_ids)
        order = np.lexsort(digests.T)  # stable: among equals the earliest row stays first
        rows, digests = rows[order], digests[order]
        return _repeats(rows, digests)

    def _suspects(self) -> npt.NDArray[np.bool_]:
        hashes = np.asarray(self._hashes)
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        same_as_next = ordered[1:] == ordered[:-1]
        suspects = np.zeros(len(hashes), np.bool_)
        suspects[order[1:][same_as_next]] = True
        suspects[order[:-1][same_as_next]] = True
        return suspects


def _digests(
    suspects: npt.NDArray[np.bool_], custom_ids: Iterable[str | None]
) -> tuple[Rows, npt.NDArray[np.uint64]]:
    """The suspects' rows and, two numbers each, digests of their ids.

    128 bits stand for an id: as good as equal, and flat in memory even when every id is repeated.
    """
    rows = array("q")
    digests = array("Q")
    for row, (suspect, custom_id) in enumerate(zip(suspects.tobytes(), custom_ids, strict=True)):
        if suspect and custom_id is not None:
            rows.append(row)
            digests.frombytes(blake2b(custom_id.encode(), digest_size=16).digest())
    return np.asarray(rows), np.asarray(digests).reshape(-1, 2)


def _repeats(rows: Rows, digests: npt.NDArray[np.uint64]) -> Repeats:
    """``digests`` sorted, and within equal ones ``rows`` ascending."""
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = (digests[1:] != digests[:-1]).any(axis=1)
    first_rows = rows[begins][np.cumsum(begins) - 1]
    repeated = np.flatnonzero(~begins)
    by_row = repeated[np.argsort(rows[repeated])]
    return Repeats(rows[by_row], first_rows[by_row])
