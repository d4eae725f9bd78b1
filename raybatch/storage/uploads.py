"""Files that come in parts: a directory for each upload, with its record and its parts.

A part is named after its content, so that one sent again is the same part. Parts that come one after the
other are written one behind the other, any other one into a file of its own. Refuses to know what the parts
hold and who may add them; who changes an upload holds it first.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from raybatch.core.large_upload import UPLOAD_LIFE_S, LargeUpload
from raybatch.errors import Corrupt, NotFound
from raybatch.storage.atomic import TEMPORARY_PREFIX, atomic_file, fsync_dir, publish, temporary_beside
from raybatch.storage.hashed_file import HashedFile
from raybatch.storage.joined_parts import JoinedParts, JoinedPartWriter, part_id_of
from raybatch.storage.locked import locked
from raybatch.storage.read_blocks import read_blocks

UPLOAD_ID: Final = re.compile(r"upload_[0-9a-f]{32}")
PART_ID: Final = re.compile(r"part_[0-9a-f]{32}")
RECORD: Final = "upload.json"
LATE_S: Final = 3_600.0  #: kept so long after its time: it may be in use, and be asked for again


class UploadStore:
    """Uploads live directly under ``root``, which is made with the first of them when it is not there."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, upload: LargeUpload) -> None:
        """Returns once it is durable."""
        folder = self._folder(upload.upload_id)
        folder.mkdir(mode=0o700, parents=True)
        self.save(upload)
        fsync_dir(self._root)

    def load(self, upload_id: str) -> LargeUpload:
        """Raises NotFound, and Corrupt when its record cannot be read."""
        try:
            return _record(self._folder(upload_id))
        except FileNotFoundError:
            raise no_such_upload(upload_id) from None

    def save(self, upload: LargeUpload) -> None:
        """Replace its record, durably."""
        with atomic_file(self._folder(upload.upload_id) / RECORD) as temporary:
            temporary.write_bytes(msgspec.json.encode(upload))

    @contextmanager
    def held(self, upload_id: str) -> Iterator[bool]:
        """Whether nobody else holds it, in this process or another; nobody can until the block ends.

        A process that dies lets go. Raises NotFound.
        """
        try:
            descriptor = os.open(self._folder(upload_id), os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise no_such_upload(upload_id) from None
        try:
            yield locked(descriptor)
        finally:
            os.close(descriptor)

    def part_writer(self, upload_id: str) -> PartWriter:
        """A context manager to stream a part through; it does not count before ``commit``."""
        folder = self._folder(upload_id)
        joined = None if _own_sizes(folder) else JoinedParts(folder).writer()
        return joined or OwnPartWriter(folder)

    def parts(self, upload_id: str) -> dict[str, int]:
        """The size in bytes of every part, by its id."""
        folder = self._folder(upload_id)
        stretches = JoinedParts(folder).stretches()
        return {part_id: len(stretch) for part_id, stretch in stretches.items()} | _own_sizes(folder)

    def blocks(self, upload_id: str, part_ids: Sequence[str]) -> Iterator[bytes]:
        """The bytes of these parts, one after the other. Each is known: ``parts`` has it."""
        folder = self._folder(upload_id)
        joined = JoinedParts(folder)
        stretches = joined.stretches()
        for part_id in part_ids:
            stretch = stretches.get(part_id)
            if stretch is None:
                yield from read_blocks(folder / part_id)
            else:
                yield from read_blocks(joined.path, stretch.start, stretch.stop)

    def joined(self, upload_id: str, part_ids: Sequence[str]) -> AbstractContextManager[Path | None]:
        """The file that is these parts one after the other, if there is one: durable, and unchanged until the
        block ends."""
        return JoinedParts(self._folder(upload_id)).whole(part_ids)

    def remove_parts(self, upload_id: str) -> None:
        folder = self._folder(upload_id)
        JoinedParts(folder).remove()
        for part_id in _own_sizes(folder):
            (folder / part_id).unlink(missing_ok=True)

    def over(self, now: float) -> list[Path]:
        """The directories of uploads whose time ended long ago, and what is left of removed ones."""
        ours = (*self._root.glob("upload_*"), *self._root.glob(f"{TEMPORARY_PREFIX}*"))
        return [folder for folder in sorted(ours) if _ended_at(folder) + LATE_S <= now]

    def remove(self, folder: Path) -> None:
        """All of it, gone from sight at once."""
        hidden = temporary_beside(folder)
        with suppress(FileNotFoundError):
            folder.rename(hidden)
            shutil.rmtree(hidden)

    def _folder(self, upload_id: str) -> Path:
        if not UPLOAD_ID.fullmatch(upload_id):
            raise no_such_upload(upload_id)
        return self._root / upload_id


class OwnPartWriter(HashedFile):
    """One part on its way into a file of its own."""

    start = None  #: behind no other part

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / RECORD, salt=folder.name.encode())
        self._folder = folder

    @property
    def part_id(self) -> str:
        return part_id_of(self._digest.hexdigest())

    def commit(self) -> None:
        """Make the part durable under its id."""
        self._file.close()
        publish(self._temporary, self._folder / self.part_id)


PartWriter = (
    OwnPartWriter | JoinedPartWriter
)  #: ``part_id``: the same bytes in the same upload, the same part


def no_such_upload(upload_id: str) -> NotFound:
    return NotFound(f"No such Upload object: {upload_id[:200]}", param="id")


def _record(folder: Path) -> LargeUpload:
    content = (folder / RECORD).read_bytes()
    try:
        return msgspec.json.decode(content, type=LargeUpload)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{folder / RECORD} cannot be read: {error}") from None


def _own_sizes(folder: Path) -> dict[str, int]:
    """Of the parts in files of their own."""
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if PART_ID.fullmatch(entry.name)}


def _ended_at(folder: Path) -> float:
    """When its time is over; for what has no record, when it would be if it had just been made."""
    if folder.name.startswith(TEMPORARY_PREFIX):
        return 0.0
    try:
        return _record(folder).expires_at
    except (FileNotFoundError, Corrupt):
        with suppress(FileNotFoundError):
            return folder.stat().st_mtime + UPLOAD_LIFE_S
    return float("inf")
