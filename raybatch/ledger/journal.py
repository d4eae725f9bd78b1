"""The journal: every tick's changes, on disk before the ledger hears of them.

A directory of segments ``<first seq>.journal``. A segment is a run of lines ``<crc32> <bytes> <JSON>``; its
first is a snapshot of everything remembered before it, so the newest segment alone can make the ledger again.
Appends are fsynced. A torn last line was never acknowledged and is cut off; any other damage is refused.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

import msgspec

from raybatch.core.changes import DURABLE, DurableChange
from raybatch.core.model import Batch, Chunk, File, LogEntry, ModelRate, PartFile, Redrive
from raybatch.core.state import Image
from raybatch.errors import Corrupt, DiskFull

_ENTITIES: Final[dict[str, type]] = {
    kind.__name__: kind for kind in (File, Batch, Chunk, PartFile, Redrive, LogEntry, ModelRate, int)
}


@dataclass(frozen=True, slots=True)
class Record:
    """Either the changes of tick ``seq``, or a snapshot of all images as of ``seq``."""

    seq: int
    at: float
    changes: tuple[DurableChange, ...] = ()
    snapshot: tuple[Image, ...] | None = None


class Journal:
    def __init__(self, directory: Path, segment_bytes_max: int = 64 << 20) -> None:
        """Opens or creates. Raises Corrupt naming segment and offset when a record is damaged."""
        self._directory = directory
        self._segment_bytes_max = segment_bytes_max
        self._segment: FileIO | None = None
        self._good_bytes = 0  #: of the open segment: everything below is whole records
        self._snapshot_bytes = 0  #: of the open segment: its first record
        self.last_seq = 0
        directory.mkdir(parents=True, exist_ok=True)
        segments = self._segments()
        if segments:
            self._resume(segments[-1])

    def append(self, seq: int, changes: tuple[DurableChange, ...], at: float) -> None:
        """Durable on return. Raises DiskFull with the journal as it was before."""
        assert self._segment is not None, "start a segment first"
        assert seq == self.last_seq + 1, (seq, self.last_seq)
        self._write(self._segment, _encode(Record(seq, at, changes)))
        self.last_seq = seq

    @property
    def first_seq(self) -> int:
        """The snapshot the oldest kept segment begins with."""
        segments = self._segments()
        return int(segments[0].stem) if segments else 0

    @property
    def wants_segment(self) -> bool:
        return self._segment is None or self._good_bytes - self._snapshot_bytes > self._segment_bytes_max

    def start_segment(self, seq: int, images: tuple[Image, ...], at: float) -> None:
        """A new segment that begins with a snapshot as of ``seq``; the newest two segments are kept."""
        path = self._directory / f"{seq:020d}.journal"
        previous = self._segment
        good_bytes = self._good_bytes
        temporary = path.with_suffix(".new")
        segment = FileIO(temporary, "w+")
        try:
            self._good_bytes = 0
            self._write(segment, _encode(Record(seq, at, snapshot=images)))
        except BaseException:
            self._good_bytes = good_bytes
            segment.close()
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(path)
        self._sync_directory()
        self._segment = segment
        self._snapshot_bytes = self._good_bytes
        self.last_seq = max(self.last_seq, seq)
        if previous is not None:
            previous.close()
        for old in self._segments()[:-2]:
            old.unlink()

    def replay(self, after_seq: int) -> Iterator[Record]:
        """Records newer than ``after_seq``, led by a snapshot when records alone do not reach back so far."""
        segments = self._segments()
        usable = [path for path in segments if int(path.stem) <= after_seq]
        start = segments.index(usable[-1]) if usable else max(len(segments) - 1, 0)
        reached = after_seq
        for path in segments[start:]:
            for _, record in _read(path, tolerate_torn_tail=path == segments[-1]):
                if record.snapshot is not None and path == segments[start]:
                    if record.seq > reached:
                        yield record
                        reached = record.seq
                elif record.snapshot is not None:
                    if record.seq != reached:
                        raise Corrupt(f"{path} begins after {record.seq}, not {reached}: records are missing")
                elif record.seq > reached:
                    if record.seq != reached + 1:
                        raise Corrupt(f"{path}: record {record.seq} follows {reached}: records are missing")
                    yield record
                    reached = record.seq

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _resume(self, path: Path) -> None:
        for end, record in _read(path, tolerate_torn_tail=True):
            self._good_bytes = end
            self._snapshot_bytes = self._snapshot_bytes or end
            self.last_seq = max(self.last_seq, record.seq)
        if self._good_bytes == 0:  # a segment gets its name after its snapshot was fsynced
            raise Corrupt(f"{path}: the snapshot at byte 0 is cut short: restore this file from a copy")
        self._segment = FileIO(path, "r+")
        self._segment.truncate(self._good_bytes)
        self._segment.seek(self._good_bytes)

    def _write(self, segment: FileIO, line: bytes) -> None:
        try:
            written_bytes = 0
            while written_bytes < len(line):
                written_bytes += segment.write(line[written_bytes:])
            os.fdatasync(segment.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            segment.truncate(self._good_bytes)
            segment.seek(self._good_bytes)
            raise DiskFull(
                f"no space left for the journal at {self._directory}: free some disk space"
            ) from error
        self._good_bytes += len(line)

    def _segments(self) -> list[Path]:
        return sorted(self._directory.glob("*.journal"))

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _encode(record: Record) -> bytes:
    document: dict[str, Any] = {"seq": record.seq, "at": record.at}
    if record.snapshot is not None:
        document["snapshot"] = [
            [
                image.table,
                image.key,
                type(image.entity).__name__,
                msgspec.to_builtins(image.entity),
                image.batch_id,
            ]
            for image in record.snapshot
        ]
    else:
        document["changes"] = [
            [type(change).__name__, msgspec.to_builtins(change)] for change in record.changes
        ]
    # the standard library's JSON: bitmaps are wider than 64 bits
    body = json.dumps(document, separators=(",", ":")).encode()
    return b"%08x %d %s\n" % (zlib.crc32(body), len(body), body)


def _decode(body: bytes) -> Record:
    document = json.loads(body)
    if "snapshot" in document:
        images = tuple(
            Image(table, key, msgspec.convert(entity, _ENTITIES[kind]), batch_id)
            for table, key, kind, entity, batch_id in document["snapshot"]
        )
        return Record(document["seq"], document["at"], snapshot=images)
    changes: tuple[DurableChange, ...] = tuple(
        msgspec.convert(change, DURABLE[kind]) for kind, change in document["changes"]
    )
    return Record(document["seq"], document["at"], changes)


def _read(path: Path, *, tolerate_torn_tail: bool) -> Iterator[tuple[int, Record]]:
    """Each record with the offset just behind it."""
    offset = 0
    with path.open("rb") as segment:
        for line in segment:
            body = _checked(line)
            if body is None:
                if tolerate_torn_tail and _torn(line):
                    return
                raise Corrupt(
                    f"{path}: the record at byte {offset} does not match its checksum. The journal is "
                    f"damaged: restore this file from a copy"
                )
            offset += len(line)
            yield offset, _decode(body)


def _checked(line: bytes) -> bytes | None:
    """The body when the line is whole and unharmed."""
    head, _, rest = line.partition(b" ")
    length, _, body = rest.partition(b" ")
    if not line.endswith(b"\n") or not length.isdigit():
        return None
    body = body[:-1]
    if len(body) != int(length) or head != b"%08x" % zlib.crc32(body):
        return None
    return body


def _torn(line: bytes) -> bool:
    """Cut short, as a crash leaves the last append; a line of full length without its newline is damage."""
    length, _, body = line.partition(b" ")[2].partition(b" ")
    whole = length.isdigit() and len(body) > int(length)
    return not line.endswith(b"\n") and not whole
