"""A file written under a temporary name while its bytes are counted and hashed.

Refuses to give it its final name: what becomes of it differs, and is its heir's.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Self

from raybatch.storage.atomic import temporary_beside


class HashedFile:
    """Leaving the block before the file has another name removes every trace of it."""

    def __init__(self, beside: Path, salt: bytes = b"") -> None:
        """``beside``: a path in the directory where it is written. ``salt`` is hashed before its bytes."""
        self._temporary = temporary_beside(beside)
        self._digest = hashlib.sha256(salt)
        self.size_bytes = 0

    @property
    def arriving(self) -> Path:
        """Where it is while it grows."""
        return self._temporary

    def __enter__(self) -> Self:
        self._file = self._temporary.open("xb", buffering=0)
        return self

    def write(self, block: bytes) -> None:
        view = memoryview(block)
        while view:  # an unbuffered write may be short, on a full disk for one
            view = view[self._file.write(view) :]
        self._digest.update(block)
        self.size_bytes += len(block)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)
