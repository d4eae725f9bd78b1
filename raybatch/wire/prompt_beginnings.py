"""Which requests of an upload begin alike: with their rows side by side, an engine computes a beginning once.

Refuses to keep prompts: a request leaves four checksums. Two that collide put a row among strangers, which
costs time and nothing else.
"""

from __future__ import annotations

from array import array
from typing import Any, Final
from zlib import crc32

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

#: where a body's prompt begins, by endpoint: what is found first counts. Embeddings have no cache to meet in.
MARKS: Final = {
    "/v1/chat/completions": (b'"messages"',),
    "/v1/completions": (b'"prompt"',),
    "/v1/responses": (b'"instructions"', b'"input"'),
}
DEPTHS: Final = (256, 1_024, 4_096, 16_384)  #: bytes of JSON from the mark on


def prompt_begin(endpoint: str, request: bytes) -> int:
    """Where the prompt begins in a line or a body, as the client wrote it; 0 where that cannot be told."""
    for mark in MARKS.get(endpoint, ()):
        place = request.find(mark)
        if place >= 0:
            return place
    return 0


class PromptBeginnings:
    """Add all requests in order, then ask in which order those that begin alike are together."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._depths = [(depth, array("I")) for depth in DEPTHS] if endpoint in MARKS else []

    def add(self, line: bytes | None) -> None:
        """``line``: as the client wrote it; None: it cannot run, and stays with the one before it."""
        if line is None:
            for _, checksums in self._depths:
                checksums.append(checksums[-1] if checksums else 0)
            return
        begin = prompt_begin(self._endpoint, line)
        low, checksum = begin, 0
        for depth, checksums in self._depths:
            high = begin + depth
            checksum = crc32(line[low:high], checksum)
            checksums.append(checksum)
            low = high

    def order(self, rows: Rows, within: npt.NDArray[np.uint16]) -> Rows:
        """The places in ``rows`` from first to last, so that rows that begin alike come together.

        ``within``: as long as ``rows``, ascending; rows of different numbers stay apart. Groups stand as
        their first rows do, so what has nothing in common keeps its order.
        """
        keys: list[npt.NDArray[Any]] = []
        for _, checksums in self._depths:
            first, distinct = _first_equal(np.asarray(checksums)[rows])
            keys.append(first)
            if distinct:  # then so is all that is deeper
                break
        order: Rows = np.lexsort((*reversed(keys), within))
        return order


def _first_equal(numbers: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint32], bool]:
    """For each the place of the first one equal to it, and whether no two are. A million rows take 30 MB."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    begins = np.ones(len(numbers), np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    del ordered
    group = np.cumsum(begins, dtype=np.int32)
    group -= 1
    first = np.empty(len(numbers), np.uint32)
    first[order] = order[begins].astype(np.uint32)[group]
    return first, bool(begins.all())
