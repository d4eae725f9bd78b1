"""The ledger's in-memory twin: the same promises without a disk, for the simulator and tests of the shell."""

from __future__ import annotations

from raybatch.core.state import Image
from raybatch.ledger.contract import Remembered, coalesce


class MemoryLedger:
    def __init__(self) -> None:
        self._seq = 0
        self._images: dict[tuple[str, str | int], Image] = {}

    def load(self) -> Remembered:
        return Remembered(self._seq, tuple(self._images.values()))

    def commit(self, seq: int, images: tuple[Image, ...]) -> None:
        if seq <= self._seq:
            return
        for table, by_key in coalesce(images).items():
            for key, image in by_key.items():
                if image.entity is None:
                    self._images.pop((table, key), None)
                else:
                    self._images[table, key] = image
        self._seq = seq

    def reopen(self) -> None:
        """Nothing to open: what was committed is still here."""

    def close(self) -> None:
        """Keeps what it holds, as a file would."""
