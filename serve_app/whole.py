"""What the file of a large upload comes to, learned while its parts are written one behind the other."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from raybatch.errors import BadRequest
from serve_app.jsonl_check import JsonlCheck

KEPT_MAX: Final = 64  #: of one replica
HELD_BYTES_MAX: Final = 64 << 10  #: of the first line; one with more of it is read again instead


class Whole:
    """Feed it the bytes in order, then ``finish``."""

    def __init__(self, line_bytes_max: int) -> None:
        self.size_bytes = 0
        self.announced = False  #: the scheduler has been told of it
        self._sha256 = hashlib.sha256()
        self._check = JsonlCheck(line_bytes_max)
        self._refusal: BadRequest | None = None

    def feed(self, block: bytes) -> None:
        self.size_bytes += len(block)
        self._sha256.update(block)
        if self._refusal is None:
            try:
                self._check.feed(block)
            except BadRequest as refusal:  # its sender may yet want the parts in another order
                self._refusal = refusal

    def finish(self) -> None:
        """Raises BadRequest for what is not JSONL."""
        if self._refusal is not None:
            raise self._refusal
        self._check.finish()

    @property
    def held_bytes(self) -> int:
        return self._check.held_bytes

    @property
    def sha256(self) -> str:
        """As hex."""
        return self._sha256.hexdigest()

    @property
    def lines(self) -> int:
        return self._check.lines


class Wholes:
    """Of the uploads under way in this replica. What is lost with it is read again from the disk."""

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._kept: OrderedDict[str, Whole] = OrderedDict()

    def new(self) -> Whole:
        return Whole(self._line_bytes_max)

    def take(self, upload_id: str, size_bytes: int | None) -> Whole | None:
        """Of its first bytes, so many; to be kept again once there are more. None when it is not known, and
        for parts that do not lie behind others, which have no such size."""
        whole = self._kept.pop(upload_id, None)
        if whole is not None and whole.size_bytes == size_bytes:
            return whole
        return self.new() if size_bytes == 0 else None

    def keep(self, upload_id: str, whole: Whole) -> None:
        if whole.held_bytes > HELD_BYTES_MAX:
            return
        self._kept[upload_id] = whole
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
