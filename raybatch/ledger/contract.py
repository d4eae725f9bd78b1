"""What a ledger promises: images in, the same images out, and the number of the last commit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from raybatch.core.state import Image

#: Of the ledger's tables and the journal's records. What a version adds to a record has a default, so that a
#: newer version reads what an older one wrote; a ledger of an older version is made again from the journal.
SCHEMA_VERSION: Final = 4


@dataclass(frozen=True, slots=True)
class Remembered:
    seq: int  #: of the last commit; 0 when there was none
    images: tuple[Image, ...]


class Ledger(Protocol):
    """One writer, one thread. A commit is atomic, and committing the same ``seq`` again changes nothing."""

    def load(self) -> Remembered: ...

    def commit(self, seq: int, images: tuple[Image, ...]) -> None:
        """The last image of a key wins. Raises DiskFull, after which ``reopen`` is due."""
        ...

    def reopen(self) -> None: ...

    def close(self) -> None: ...


def coalesce(images: tuple[Image, ...]) -> dict[str, dict[str | int, Image]]:
    """By table, the last image of each key."""
    tables: dict[str, dict[str | int, Image]] = {}
    for image in images:
        tables.setdefault(image.table, {})[image.key] = image
    return tables
