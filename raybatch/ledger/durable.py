"""Journal and ledger as one memory: remembered means fsynced in the journal and committed in the ledger."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

from raybatch.core.changes import DurableChange
from raybatch.core.state import Image, State
from raybatch.errors import Corrupt, DiskFull
from raybatch.ledger.contract import Ledger, Remembered
from raybatch.ledger.duckdb_ledger import DuckDBLedger
from raybatch.ledger.journal import Journal

RESERVE_BYTES = 16 << 20

log = logging.getLogger(__name__)


class DurableMemory:
    """Not thread-safe: everything on one thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reserve = directory / "reserve"
        self._path = directory / "ledger.duckdb"
        # first: its lock keeps another process off the journal
        self._ledger: Ledger = _open_ledger(self._path)
        try:
            self._journal = Journal(directory / "journal")
        except BaseException:
            self._ledger.close()
            raise
        self._ledger_due = False  #: the ledger failed after the journal had the tick

    def load(self) -> State:
        """The state as of the last remembered tick. What the ledger lacks is replayed from the journal."""
        remembered = self._ledger.load()
        if 0 < remembered.seq < self._journal.first_seq:
            self._ledger.close()
            _set_aside(self._path, f"it ends at commit {remembered.seq}, before the journal begins")
            self._ledger = DuckDBLedger(self._path)
            remembered = self._ledger.load()
        state = State()
        self._catch_up(state, remembered)
        if self._journal.wants_segment:
            self._journal.start_segment(self._seq(), state.images(), time.time())
        self._keep_reserve()
        return state

    def remember(self, changes: tuple[DurableChange, ...], images: tuple[Image, ...], at: float) -> None:
        """Durable on return. Raises DiskFull: call again with the same arguments once there is space."""
        try:
            if not self._ledger_due:
                self._journal.append(self._journal.last_seq + 1, changes, at)
                self._ledger_due = True
                self._ledger.commit(self._journal.last_seq, images)
            else:
                self._ledger.reopen()
                self._ledger.commit(self._journal.last_seq, images)
            self._ledger_due = False
        except DiskFull:
            self._reserve.unlink(missing_ok=True)
            raise

    def keep_house(self, state: State, at: float) -> None:
        """Between ticks: a new journal segment when the open one is long, the reserve when it was used up."""
        if self._journal.wants_segment:
            self._journal.start_segment(self._seq(), state.images(), at)
        self._keep_reserve()

    def close(self) -> None:
        self._ledger.close()
        self._journal.close()

    def _seq(self) -> int:
        return self._journal.last_seq

    def _catch_up(self, state: State, remembered: Remembered) -> None:
        state.load(remembered.images)
        if remembered.seq > self._journal.last_seq:
            raise Corrupt(
                f"the ledger in {self._directory} is at commit {remembered.seq}, the journal ends at "
                f"{self._journal.last_seq}: the journal is damaged, restore it from a copy"
            )
        for record in self._journal.replay(remembered.seq):
            if record.snapshot is not None:
                state.load(record.snapshot)
                images: tuple[Image, ...] = record.snapshot
            else:
                images = tuple(image for change in record.changes for image in state.apply(change))
            self._ledger.commit(record.seq, images)

    def _keep_reserve(self) -> None:
        """A file to give up when the disk is full, so that the last commits still fit."""
        if self._reserve.exists():
            return
        temporary = self._reserve.with_suffix(".new")
        with contextlib.suppress(OSError):
            temporary.write_bytes(b"\0" * RESERVE_BYTES)
            temporary.replace(self._reserve)
        temporary.unlink(missing_ok=True)


def _open_ledger(path: Path) -> Ledger:
    """The journal can make the ledger again, so a damaged one is set aside, never a reason to stay down."""
    try:
        return DuckDBLedger(path)
    except Corrupt as damage:
        _set_aside(path, damage.message)
        return DuckDBLedger(path)


def _set_aside(path: Path, reason: str) -> None:
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    log.error("ledger %s: %s; kept as %s and made again from the journal", path, reason, aside.name)
    path.replace(aside)
    wal = path.with_name(f"{path.name}.wal")
    if wal.exists():
        wal.replace(aside.with_name(f"{aside.name}.wal"))
