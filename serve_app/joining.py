"""The parts of a large upload become one file: they are it already if they lie in its order, else copied."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from raybatch.core.large_upload import LargeUpload
from raybatch.core.model import File
from raybatch.crash_points import crash_point
from raybatch.errors import BadRequest
from raybatch.storage.read_blocks import read_blocks
from raybatch.storage.uploads import UploadStore
from raybatch.wire.upload_params import CompletionParams
from serve_app.announcement import Announcement
from serve_app.door import Door
from serve_app.jsonl_check import JsonlCheck
from serve_app.whole import Whole


def joining(door: Door, upload: LargeUpload, params: CompletionParams) -> Callable[[], File]:
    """To be called in a thread; what is copied so far is announced from the event loop.

    Makes the blob of the whole file, durable. The upload is held, and from then on has this order of parts.
    Raises BadRequest.
    """
    loop, announcement = asyncio.get_running_loop(), Announcement(door, upload.file_id)

    def grown(arriving: Path, size_bytes: int) -> None:
        loop.call_soon_threadsafe(announcement.grown, arriving, size_bytes)

    return lambda: _Joining(door, upload, params).file(grown)


class _Joining:
    def __init__(self, door: Door, upload: LargeUpload, params: CompletionParams) -> None:
        self._door = door
        self._upload = upload
        self._params = params
        self._store = UploadStore(door.home.uploads)
        self._md5 = hashlib.md5(usedforsecurity=False)

    def file(self, grown: Callable[[Path, int], None]) -> File:
        upload, part_ids = self._upload, self._params.part_ids
        _check_parts(upload, part_ids, self._store.parts(upload.upload_id))
        with self._store.joined(upload.upload_id, part_ids) as joined:
            found = None if joined is None else self._adopted(joined)
        sha256, lines = found or self._copied(grown)
        crash_point("large_upload.joined")
        now, expires_after_s = time.time(), upload.file_expires_after_s
        return File(
            file_id=upload.file_id,
            tenant=upload.tenant,
            purpose=upload.purpose,
            filename=upload.filename,
            size_bytes=upload.size_bytes,
            created_at=now,
            sha256=sha256,
            lines=lines,
            expires_at=None if expires_after_s is None else now + expires_after_s,
        )

    def _adopted(self, joined: Path) -> tuple[str, int] | None:
        """Nothing is copied; nor read, if this replica saw all of it come. None where it has to be copied."""
        whole = self._door.wholes.take(self._upload.upload_id, self._upload.size_bytes)
        if whole is None or self._params.md5 is not None:
            whole = self._door.wholes.new()
            for block in self._digested(read_blocks(joined)):
                whole.feed(block)
        self._choose(whole)
        if not self._door.blobs.adopt(joined, self._upload.file_id):
            return None
        return whole.sha256, whole.lines

    def _copied(self, grown: Callable[[Path, int], None]) -> tuple[str, int]:
        check = JsonlCheck(self._door.settings.intake.line_bytes_max)
        with self._door.blobs.writer(self._upload.file_id) as writer:
            for block in self._digested(self._store.blocks(self._upload.upload_id, self._params.part_ids)):
                check.feed(block)
                writer.write(block)
                grown(writer.arriving, writer.size_bytes)
            self._choose(check)
            _, sha256 = writer.commit()
        return sha256, check.lines

    def _choose(self, check: JsonlCheck | Whole) -> None:
        """This order of parts, if the file they make is one."""
        check.finish()
        found = self._md5.hexdigest()
        if self._params.md5 not in (None, found):
            message = f"The md5 of these parts is {found}, but 'md5' says {self._params.md5}."
            raise BadRequest(message, param="md5")
        self._store.save(replace(self._upload, part_ids=self._params.part_ids))
        crash_point("large_upload.chosen")

    def _digested(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """As they are; the MD5 of those read last counts, if somebody asks for it."""
        self._md5 = hashlib.md5(usedforsecurity=False)
        for block in blocks:
            if self._params.md5 is not None:
                self._md5.update(block)
            yield block


def _check_parts(upload: LargeUpload, part_ids: tuple[str, ...], sizes: dict[str, int]) -> None:
    for place, part_id in enumerate(part_ids):
        if part_id not in sizes:
            message = f"No such Part in this Upload: {part_id[:200]}"
            raise BadRequest(message, param=f"part_ids[{place}]")
    if upload.part_ids not in ((), part_ids):
        raise BadRequest("This Upload is being completed with its parts in another order.", param="part_ids")
    found = sum(sizes[part_id] for part_id in part_ids)
    if found != upload.size_bytes:
        raise BadRequest(
            f"The parts have {found:,} bytes together, but the Upload was declared with "
            f"{upload.size_bytes:,}.",
            param="part_ids",
        )
