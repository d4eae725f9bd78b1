"""A disk that a power cut leaves with what was fsynced, and with as much of the rest as it likes.

Real files in a real directory: ``os.fsync`` and ``os.fdatasync`` are watched, not obeyed, and what they were
called for is what a cut keeps for certain. Of a file's later bytes any prefix may be there, or a hole; of a
directory's later names either none or all. Directories themselves are always there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

Files = dict[Path, bytes]  #: by path relative to the root


class Disk:
    def __init__(self, root: Path, rng: Random) -> None:
        self._root, self._rng = root, rng
        self._synced: dict[int, bytes] = {}  #: by inode
        self._names: dict[Path, dict[str, int]] = {}  #: by directory: the inodes its durable names lead to
        self._kept_open: dict[int, int] = {}  #: so that no inode is given away twice

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While inside, every fsync of this process is this disk's."""
        real = os.fsync, os.fdatasync
        watching: Callable[[int], None] = self._sync
        os.fsync = os.fdatasync = watching  # type: ignore[assignment]
        try:
            yield
        finally:
            os.fsync, os.fdatasync = real
            for descriptor in self._kept_open.values():
                os.close(descriptor)
            self._kept_open.clear()

    def holds(self) -> None:
        """Everything that is there now is durable: how a history begins."""
        for path in (self._root, *self._root.rglob("*")):
            descriptor = os.open(path, os.O_RDONLY)
            self._sync(descriptor)
            os.close(descriptor)

    def cut(self) -> Files:
        """What a power cut at this moment leaves."""
        left: Files = {}
        for folder in (self._root, *sorted(path for path in self._root.rglob("*") if path.is_dir())):
            with os.scandir(folder) as entries:
                now = {entry.name: entry.inode() for entry in entries if entry.is_file()}
            durable = self._names.get(folder, {})
            names = now if self._rng.random() < 0.5 else durable
            for name, inode in sorted(names.items()):
                content = (folder / name).read_bytes() if now.get(name) == inode else None
                left[(folder / name).relative_to(self._root)] = self._left_of(inode, content)
        return left

    def _left_of(self, inode: int, content: bytes | None) -> bytes:
        """``content``: as a reader sees it now; None when the file has lost its name since."""
        synced = self._synced.get(inode, b"")
        if content is None or content == synced:
            return synced
        certain = min(len(synced), len(content))
        begin, end = sorted(self._rng.randint(certain, len(content)) for _ in range(2))
        hole = content[:begin] + bytes(end - begin) + content[end:]
        return self._rng.choice((synced, content, content[:end], hole))

    def _sync(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}")
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(descriptor) as entries:
                self._names[path.readlink()] = {one.name: one.inode() for one in entries if one.is_file()}
            return
        if found.st_ino not in self._kept_open:
            self._kept_open[found.st_ino] = os.open(path, os.O_RDONLY)
        self._synced[found.st_ino] = path.read_bytes()
