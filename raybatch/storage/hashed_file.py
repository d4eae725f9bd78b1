"""Files written while their bytes are counted and hashed.

Refuses to give them their final names: what becomes of a file differs, and is its heir's.
"""

from __future__ import annotations

import hashlib
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from raybatch.storage.atomic import temporary_beside


class HashedBytes:
    """Bytes on their way into a file that its heir opens."""

    _file: FileIO

    def __init__(self, salt: bytes = b"") -> None:
        """``salt`` is hashed before the bytes."""
        self._digest = hashlib.sha256(salt)
        self.size_bytes = 0

    def write(self, block: bytes) -> None:
        view = memoryview(block)
        while view:  # an unbuffered write may be short, on a full disk for one
            view = view[self._file.write(view) :]
        self._digest.update(block)
        self.size_bytes += len(block)


class HashedFile(HashedBytes):
    """Of a temporary name. Leaving the block before it has another one removes every trace of it."""

    def __init__(self, beside: Path, salt: bytes = b"") -> None:
        """``beside``: a path in the directory where it is written."""
        super().__init__(salt)
        self._temporary = temporary_beside(beside)

    @property
    def arriving(self) -> Path:
        """Where it is while it grows."""
        return self._temporary

    def __enter__(self) -> Self:
        self._file = FileIO(self._temporary, "x")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)
