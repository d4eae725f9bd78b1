"""The journal: every tick's changes, on disk before the ledger hears of them.

A directory of segments ``<first seq>.journal``; the newest two are kept. Appends are fsynced one after the
other, and the next begins only after the ledger has committed the one before. So a power cut can harm the
last record alone, in any of its pages, and then the ledger ends with the record before it: such a record was
never acknowledged and is cut off. Any other damage is refused and left to ``raybatch rebuild``.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from raybatch.core.changes import DurableChange
from raybatch.core.state import Image
from raybatch.crash_points import crash_point
from raybatch.errors import Corrupt, DiskFull, OperatorError
from raybatch.ledger.contract import SCHEMA_VERSION
from raybatch.ledger.segment import Record, encode, records, scan, segments, sync_directory, write_segment

REMEDY = "Stop raybatch and run `raybatch rebuild`: it says what can be kept."

log = logging.getLogger(__name__)


class Journal:
    def __init__(self, directory: Path, segment_bytes_max: int = 64 << 20) -> None:
        """Looks at the newest segment, or makes the directory; ``settle`` is due before the first append.

        Raises OperatorError when a newer version wrote it.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._segment_bytes_max = segment_bytes_max
        self._segment: FileIO | None = None
        found = segments(directory)
        self._newest = scan(found[-1]) if found else None
        lines = self._newest.lines if self._newest else ()
        self._good_bytes = lines[-1].end if lines else 0  #: of the open segment: below it are whole records
        self._snapshot_bytes = lines[0].end if lines else 0  #: of the open segment: its first record
        self.first_seq = lines[0].seq if lines else 0  #: of the newest segment's snapshot
        self.last_seq = lines[-1].seq if lines else 0
        if self._newest is not None:
            check_version(self._newest.path, self._newest.version)

    def settle(self, ledger_seq: int) -> None:
        """Make the journal fit to be continued behind a ledger that ends with commit ``ledger_seq``.

        Settled once, it stays so. Raises Corrupt when something acknowledged is missing from it, or may be.
        """
        if ledger_seq > self.last_seq:
            raise Corrupt(
                f"the ledger is at commit {ledger_seq}, the journal in {self._directory} ends at "
                f"{self.last_seq}: the journal is damaged. {REMEDY}"
            )
        if self._newest is None or self._segment is not None:
            return
        if self._newest.damaged:
            unacknowledged = self._newest.lines and not self._newest.behind and ledger_seq == self.last_seq
            if not unacknowledged:
                raise Corrupt(f"{self._newest.damage}, and may have been acknowledged. {REMEDY}")
            log.warning("%s; it was never acknowledged and is cut off", self._newest.damage)
        self._segment = FileIO(self._newest.path, "r+")
        self._segment.truncate(self._good_bytes)
        self._segment.seek(self._good_bytes)
        self._write_last_again(self._segment)

    def append(self, seq: int, changes: tuple[DurableChange, ...], at: float) -> None:
        """Durable on return. Raises DiskFull with the journal as it was before.

        After any other error nothing can be appended any more: what an fsync failed to write is unknown.
        """
        assert self._segment is not None, "not settled, or a write failed"
        assert seq == self.last_seq + 1, (seq, self.last_seq)
        self._write(self._segment, encode(Record(seq, at, changes)))
        self.last_seq = seq

    @property
    def wants_segment(self) -> bool:
        """There is none, it is long, or an older version began it."""
        return (
            self._newest is None
            or self._newest.version < SCHEMA_VERSION
            or self._good_bytes - self._snapshot_bytes > self._segment_bytes_max
        )

    def start_segment(self, seq: int, images: tuple[Image, ...], at: float) -> None:
        """A new segment that begins with a snapshot as of ``seq``; the newest two are kept.

        Raises DiskFull with the journal as it was before.
        """
        try:
            path = write_segment(self._directory, seq, images, at)
        except OSError as error:
            if not _is_full(error):
                raise
            raise self._disk_full() from error
        crash_point("journal.segmented")
        self.close()
        self._newest = scan(path)
        self._good_bytes = self._snapshot_bytes = self._newest.good_bytes
        self._segment = FileIO(path, "r+")
        self._segment.seek(self._good_bytes)
        self.first_seq = self.last_seq = seq
        for old in segments(self._directory)[:-2]:
            old.unlink()

    def replay(self) -> Iterator[Record]:
        """The newest segment: its snapshot, then the ticks behind it."""
        return records(self._newest.lines if self._newest else ())

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _write_last_again(self, segment: FileIO) -> None:
        """It may lie in memory alone: an fsync that failed leaves it there, readable and never written."""
        assert self._newest is not None
        if len(self._newest.lines) > 1:  # a snapshot gets its segment's name after its fsync
            last = self._newest.lines[-1]
            os.pwrite(segment.fileno(), os.pread(segment.fileno(), last.size_bytes, last.start), last.start)
        os.fsync(segment.fileno())
        sync_directory(self._directory)

    def _write(self, segment: FileIO, line: bytes) -> None:
        try:
            written_bytes = 0
            crash_point("journal.writing")
            while written_bytes < len(line):
                written_bytes += segment.write(line[written_bytes:])
            crash_point("journal.written")
            os.fdatasync(segment.fileno())
            crash_point("journal.synced")
        except OSError as error:
            if not _is_full(error):
                self.close()
                raise
            segment.truncate(self._good_bytes)
            segment.seek(self._good_bytes)
            raise self._disk_full() from error
        self._good_bytes += len(line)

    def _disk_full(self) -> DiskFull:
        return DiskFull(f"no space left for the journal at {self._directory}: free some disk space")


def check_version(path: Path, version: int) -> None:
    """Raises OperatorError for what a newer version wrote: reading it would lose what this one knows not."""
    if version > SCHEMA_VERSION:
        raise OperatorError(
            f"{path} was written by a newer raybatch (schema {version}, this one reads up to "
            f"{SCHEMA_VERSION}): install that version again; nothing here was changed"
        )


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
