"""Segments of the journal as bytes: how records are written, found again, and known to be whole.

A segment is a run of lines ``<crc32> <bytes> <JSON>``. Its first is a snapshot of everything remembered
before it, so one segment alone can make the ledger again. Refuses to judge damage: it says where whole
records end, and which ones lie behind that.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from raybatch.core.changes import DURABLE, DurableChange
from raybatch.core.model import Batch, Chunk, File, LogEntry, ModelRate, PartFile, Redrive
from raybatch.core.state import Image
from raybatch.ledger.contract import SCHEMA_VERSION

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


@dataclass(frozen=True, slots=True)
class Line:
    """A record that is whole and unharmed, found and not decoded yet."""

    path: Path
    start: int  #: its first byte
    size_bytes: int
    seq: int
    at: float
    is_snapshot: bool
    version: int  #: of a snapshot: the schema its segment is written in

    @property
    def end(self) -> int:
        return self.start + self.size_bytes


@dataclass(frozen=True, slots=True)
class Segment:
    path: Path
    size_bytes: int
    lines: tuple[Line, ...]  #: whole, in sequence, from the snapshot on
    behind: tuple[Line, ...]  #: whole too, and behind something that is not

    @property
    def good_bytes(self) -> int:
        return self.lines[-1].end if self.lines else 0

    @property
    def damaged(self) -> bool:
        return self.good_bytes < self.size_bytes or not self.lines

    @property
    def version(self) -> int:
        return max((line.version for line in (*self.lines, *self.behind)), default=1)

    @property
    def damage(self) -> str:
        """Where, for whoever has to mend it."""
        rest_bytes = self.size_bytes - self.good_bytes
        behind = f", {len(self.behind)} whole records follow" if self.behind else ""
        return f"{self.path}: the record at byte {self.good_bytes} is damaged ({rest_bytes} bytes{behind})"


def segments(directory: Path) -> list[Path]:
    """Oldest first."""
    return sorted(directory.glob("*.journal"))


def scan(path: Path) -> Segment:
    """Read a segment, check every record, decode none."""
    lines: list[Line] = []
    behind: list[Line] = []
    offset = 0
    with path.open("rb") as file:
        for raw in file:
            line = _line(path, offset, raw)
            if line is not None:
                in_sequence = line.seq == lines[-1].seq + 1 if lines else line.is_snapshot
                whole_so_far = offset == (lines[-1].end if lines else 0)
                (lines if in_sequence and whole_so_far else behind).append(line)
            offset += len(raw)
    return Segment(path, offset, tuple(lines), tuple(behind))


def records(lines: Sequence[Line]) -> Iterator[Record]:
    """Decode lines of one segment."""
    if not lines:
        return
    with lines[0].path.open("rb") as file:
        for line in lines:
            file.seek(line.start)
            body = _checked(file.read(line.size_bytes))
            assert body is not None, f"{line.path} was changed while it was read"
            yield _decode(body)


def write_segment(directory: Path, seq: int, images: tuple[Image, ...], at: float) -> Path:
    """Make a segment that begins with a snapshot as of ``seq``; it gets its name once it is durable.

    One of that name is replaced. Raises OSError with the directory as it was.
    """
    path = directory / f"{seq:020d}.journal"
    temporary = path.with_suffix(".new")
    try:
        with temporary.open("wb") as file:
            file.write(encode(Record(seq, at, snapshot=images)))
            file.flush()
            os.fdatasync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)
    sync_directory(directory)
    return path


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def encode(record: Record) -> bytes:
    document: dict[str, Any] = {"seq": record.seq, "at": record.at}
    if record.snapshot is not None:
        document["version"] = SCHEMA_VERSION
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
    """What an older version did not know yet takes its default."""
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


#: every version begins its records so, or an older one could not tell it from damage; 1 did not name itself
_HEAD: Final = re.compile(rb'\{"seq":(\d+),"at":([^,]+),(?:"version":(\d+),)?"(snapshot|changes)":')


def _line(path: Path, start: int, raw: bytes) -> Line | None:
    body = _checked(raw)
    head = None if body is None else _HEAD.match(body)
    if head is None:
        return None
    seq, at, version, kind = head.groups()
    return Line(path, start, len(raw), int(seq), float(at), kind == b"snapshot", int(version or 1))


def _checked(raw: bytes) -> bytes | None:
    """The body when the line is whole and unharmed."""
    head, _, rest = raw.partition(b" ")
    length, _, body = rest.partition(b" ")
    if not raw.endswith(b"\n") or not length.isdigit():
        return None
    body = body[:-1]
    if len(body) != int(length) or head != b"%08x" % zlib.crc32(body):
        return None
    return body
