"""Parts of one upload written one behind the other: together they are its file before anybody asks for it.

``joined`` holds their bytes, and for each an empty file ``part_<id>.<start>-<stop>`` says where it lies and
makes it count. What lies behind the last of them belongs to no part, and then nothing more is added: bytes
are never taken back, for somebody may have read them. Refuses to know in which order parts are wanted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from raybatch.crash_points import crash_point
from raybatch.storage.atomic import fsync_dir
from raybatch.storage.hashed_file import HashedBytes
from raybatch.storage.locked import locked

JOINED: Final = "joined"
_STRETCH: Final = re.compile(r"(part_[0-9a-f]{32})\.([0-9]+)-([0-9]+)")


class JoinedParts:
    """Those in ``folder``. Who adds one, or takes the file they make, keeps all others from adding."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / JOINED

    def stretches(self) -> dict[str, range]:
        """Which bytes of ``path`` each part is, by its id."""
        found = (_STRETCH.fullmatch(name) for name in os.listdir(self._folder))
        return {match[1]: range(int(match[2]), int(match[3])) for match in found if match}

    def writer(self) -> JoinedPartWriter | None:
        """A context manager to stream the next part through; it does not count before ``commit``. None while
        another one is written, and when nothing can be added any more."""
        file = self._held("a+")
        if file is None:
            return None
        end = max((stretch.stop for stretch in self.stretches().values()), default=0)
        stat = os.fstat(file.fileno())
        if stat.st_size != end or stat.st_nlink != 1:  # of two names: it is a file by now, and those stay
            file.close()
            return None
        return JoinedPartWriter(self._folder, file, end)

    @contextmanager
    def whole(self, part_ids: Sequence[str]) -> Iterator[Path | None]:
        """``path``, if it is these parts in this order and nothing else; it stays so until the block ends."""
        file = self._held("r")
        if file is None:
            yield None
            return
        with file:
            whole = self._is_whole(part_ids, os.fstat(file.fileno()).st_size)
            yield self.path if whole else None

    def remove(self) -> None:
        for part_id, stretch in self.stretches().items():
            _mark(self._folder, part_id, stretch).unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _held(self, mode: str) -> FileIO | None:
        """``path``, open and locked. None when it is not there, or somebody else has it."""
        try:
            file = FileIO(self.path, mode)
        except FileNotFoundError:
            return None
        try:
            if locked(file.fileno()) and os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                return file
        except FileNotFoundError:  # removed since it was opened
            pass
        file.close()
        return None

    def _is_whole(self, part_ids: Sequence[str], size_bytes: int) -> bool:
        stretches, end = self.stretches(), 0
        for part_id in part_ids:
            stretch = stretches.get(part_id)
            if stretch is None or stretch.start != end:
                return False
            end = stretch.stop
        return end == size_bytes


class JoinedPartWriter(HashedBytes):
    """One part on its way, behind those before it."""

    def __init__(self, folder: Path, file: FileIO, start: int) -> None:
        super().__init__(salt=folder.name.encode())
        self._folder = folder
        self._file = file
        self._kept = False
        self.start = start

    @property
    def part_id(self) -> str:
        return part_id_of(self._digest.hexdigest())

    @property
    def arriving(self) -> Path:
        """Where it lies, and those before it."""
        return self._folder / JOINED

    def __enter__(self) -> Self:
        return self

    def commit(self) -> None:
        """Make the part durable under its id. One sent again is there already, and does not count twice."""
        self._kept = True
        if self.part_id in JoinedParts(self._folder).stretches():
            return
        os.fsync(self._file.fileno())
        crash_point("upload_part.synced")
        _mark(self._folder, self.part_id, range(self.start, self.start + self.size_bytes)).touch()
        fsync_dir(self._folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept and self.start == 0:  # no part is in it: the next one begins another file
            self.arriving.unlink(missing_ok=True)
        self._file.close()


def part_id_of(digest: str) -> str:
    """``digest``: SHA-256 as hex of the upload's id and the part's bytes."""
    return f"part_{digest[:32]}"


def _mark(folder: Path, part_id: str, stretch: range) -> Path:
    return folder / f"{part_id}.{stretch.start}-{stretch.stop}"
