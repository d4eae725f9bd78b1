"""Uploaded files at rest: immutable bytes under a directory, one file per file id.

Refuses to know who owns an upload or whether it is still wanted: the ledger does, and asks for ``orphans``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator
from pathlib import Path

from raybatch.crash_points import crash_point
from raybatch.errors import NotFound, RaybatchError
from raybatch.storage.atomic import (
    TEMPORARY_PREFIX,
    fsync_dir,
    publish,
    temporary_beside,
    written_before,
)
from raybatch.storage.hashed_file import HashedFile
from raybatch.storage.read_blocks import READ_BYTES, read_blocks

FILE_ID = re.compile(r"file-[A-Za-z0-9]+")


class BlobStore:
    """Blobs live directly under ``root``, which is created when absent."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def writer(self, file_id: str) -> BlobWriter:
        """A context manager to stream an upload through; nothing is visible before ``commit``."""
        return BlobWriter(self.path(file_id))

    def path(self, file_id: str) -> Path:
        """Where the bytes are, whether or not they exist. An id that is not one raises NotFound."""
        if not FILE_ID.fullmatch(file_id):
            raise NotFound(f"No such File object: {file_id[:200]}", param="id")
        return self._root / file_id

    def chunks(
        self, file_id: str, start: int = 0, stop: int | None = None, read_bytes: int = READ_BYTES
    ) -> Generator[bytes]:
        """The bytes ``start`` (included) to ``stop`` (excluded, default: the end), ``read_bytes`` at a time.

        An unknown id raises NotFound at the first step of the iteration.
        """
        try:
            yield from read_blocks(self.path(file_id), start, stop, read_bytes)
        except FileNotFoundError:
            raise NotFound(f"No such File object: {file_id}", param="id") from None

    def adopt(self, path: Path, file_id: str) -> bool:
        """Make a file that is durable elsewhere a blob without copying it: whoever adopts must see to it that
        it never changes. False where the filesystem does not give a file a second name."""
        final = self.path(file_id)
        temporary = temporary_beside(final)
        os.utime(path)  # young, so that no sweep takes it before it is remembered
        try:
            os.link(path, temporary)
        except OSError:
            return False
        publish(temporary, final)
        temporary.unlink(missing_ok=True)  # asked again: two names of one file are not renamed
        return True

    def remove(self, file_id: str) -> None:
        """Remove the bytes; an absent blob is fine."""
        self.path(file_id).unlink(missing_ok=True)
        fsync_dir(self._root)

    def orphans(self, keep: Callable[[str], bool], *, before: float) -> list[Path]:
        """Blobs that ``keep`` refuses, and what interrupted uploads left, if older than an instant.

        A young one may be on its way: written, and not yet known to who keeps the books.
        """
        return [
            path
            for path in sorted(self._root.iterdir())
            if _unwanted(path.name, keep) and written_before(path, before)
        ]


def _unwanted(name: str, keep: Callable[[str], bool]) -> bool:
    if name.startswith(TEMPORARY_PREFIX):
        return True
    return FILE_ID.fullmatch(name) is not None and not keep(name)


class BlobWriter(HashedFile):
    """One upload on its way to disk."""

    def __init__(self, final: Path) -> None:
        super().__init__(final)
        self._final = final

    def commit(self) -> tuple[int, str]:
        """Make the blob durable under its id. Returns ``(size_bytes, sha256_hex)``."""
        if self._file.closed:
            raise RaybatchError(f"The upload {self._final.name} was already committed.")
        self._file.close()
        crash_point("upload.written")
        publish(self._temporary, self._final)
        return self.size_bytes, self._digest.hexdigest()
