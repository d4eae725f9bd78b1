"""Journal and ledger as one memory: remembered means fsynced in the journal and committed in the ledger.

The journal is what is believed; the ledger is the same as tables. Every start makes the state from the
journal and compares the ledger with it: a ledger that lost or changed something is found and made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
from pathlib import Path

from raybatch.core.changes import DurableChange
from raybatch.core.state import Image, State
from raybatch.crash_points import crash_point
from raybatch.errors import Corrupt, DiskFull, InUse
from raybatch.ledger.contract import SCHEMA_VERSION
from raybatch.ledger.duckdb_ledger import DuckDBLedger
from raybatch.ledger.journal import Journal, check_version

LEDGER_NAME = "ledger.duckdb"
JOURNAL_NAME = "journal"
RESERVE_BYTES = 16 << 20

log = logging.getLogger(__name__)


class DurableMemory:
    """Not thread-safe: everything on one thread."""

    def __init__(self, directory: Path) -> None:
        """Raises InUse while another process has it open, OperatorError when a newer version wrote it."""
        self._directory = directory
        self._reserve = directory / "reserve"
        self._path = directory / LEDGER_NAME
        self._lock = Lock(directory)
        try:
            self._journal = Journal(directory / JOURNAL_NAME)
            self._ledger = _open_ledger(self._path)
        except BaseException:
            self._lock.close()
            raise
        self._ledger_due = False  #: the ledger failed after the journal had the tick

    @property
    def seq(self) -> int:
        """Of the last remembered tick."""
        return self._journal.last_seq

    def load(self) -> State:
        """The state as of the last remembered tick.

        Raises Corrupt when the journal lacks something that was acknowledged, or may lack it.
        """
        if self._ledger.version < SCHEMA_VERSION:
            self._journal.settle(self._ledger.seq)
            self._set_aside(
                f"the ledger {self._path} is of an older version: schema {self._ledger.version}", "older"
            )
        try:
            state = self._caught_up()
        except _Contradiction as contradiction:
            self._set_aside(contradiction.message, "damaged")
            state = self._caught_up()
        if self._journal.wants_segment:
            self._journal.start_segment(self._journal.last_seq, state.images(), time.time())
        self._keep_reserve()
        return state

    def remember(self, changes: tuple[DurableChange, ...], images: tuple[Image, ...], at: float) -> None:
        """Durable on return. Raises DiskFull: call again with the same arguments once there is space.

        After any other error this memory is of no use any more: what the disk has is unknown.
        """
        try:
            if not self._ledger_due:
                self._journal.append(self._journal.last_seq + 1, changes, at)
                self._ledger_due = True
                self._ledger.commit(self._journal.last_seq, images)
            else:
                self._ledger.reopen()
                self._ledger.commit(self._journal.last_seq, images)
            crash_point("ledger.committed")
            self._ledger_due = False
        except DiskFull:
            self._reserve.unlink(missing_ok=True)
            raise

    def keep_house(self, state: State, at: float) -> None:
        """Between ticks: a new journal segment when the open one is long, the reserve when it was used up."""
        if self._journal.wants_segment:
            self._journal.start_segment(self._journal.last_seq, state.images(), at)
        self._keep_reserve()

    def close(self) -> None:
        self._ledger.close()
        self._journal.close()
        self._lock.close()

    def _caught_up(self) -> State:
        """The journal's state, once the ledger holds the same. Raises _Contradiction when it does not."""
        try:
            remembered = self._ledger.load()
        except Corrupt as damage:
            raise _Contradiction(damage.message) from damage
        self._journal.settle(remembered.seq)
        if 0 < remembered.seq < self._journal.first_seq:
            raise _Contradiction(
                f"the ledger {self._path} ends at commit {remembered.seq}, before the newest segment of the "
                f"journal begins"
            )
        state, lacking = self._replayed(remembered.seq)
        crash_point("ledger.replayed")
        if lacking:
            self._ledger.commit(self._journal.last_seq, lacking)
            remembered = self._ledger.load()
        differing = _differing(remembered.images, state)
        if differing:
            raise _Contradiction(f"the ledger {self._path} contradicts the journal on {differing}")
        return state

    def _replayed(self, ledger_seq: int) -> tuple[State, tuple[Image, ...]]:
        """The state as the journal has it, and what a ledger at ``ledger_seq`` lacks of it."""
        state = State()
        lacking: list[Image] = []
        for record in self._journal.replay():
            if record.snapshot is not None:
                state.load(record.snapshot)
                images = record.snapshot
            else:
                images = tuple(image for change in record.changes for image in state.apply(change))
            if record.seq > ledger_seq:
                lacking.extend(images)
        return state, tuple(lacking)

    def _set_aside(self, reason: str, kind: str) -> None:
        self._ledger.close()
        set_aside(self._path, reason, kind)
        self._ledger = DuckDBLedger(self._path)

    def _keep_reserve(self) -> None:
        """A file to give up when the disk is full, so that the last commits still fit."""
        if self._reserve.exists():
            return
        temporary = self._reserve.with_suffix(".new")
        with contextlib.suppress(OSError):
            temporary.write_bytes(b"\0" * RESERVE_BYTES)
            temporary.replace(self._reserve)
        temporary.unlink(missing_ok=True)


class Lock:
    """The directory is one process's own until it is closed or the process ends."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = (directory / "lock").open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise InUse(f"the ledger in {directory} is open in another process: stop that first") from error

    def close(self) -> None:
        self._file.close()


class _Contradiction(Corrupt):
    """The ledger is not what the journal says it should be."""


def set_aside(path: Path, reason: str, kind: str) -> None:
    """Rename a ledger and its WAL, so that the journal can make it again. ``kind`` goes into the name."""
    if not path.exists():
        return
    aside = path.with_name(f"{path.name}.{kind}-{time.time_ns()}")
    note = log.info if kind == "older" else log.error
    note("%s; it is kept as %s and made again from the journal", reason, aside.name)
    wal = path.with_name(f"{path.name}.wal")
    path.replace(aside)
    if wal.exists():
        wal.replace(aside.with_name(f"{aside.name}.wal"))


def _open_ledger(path: Path) -> DuckDBLedger:
    """The journal can make the ledger again, so a damaged one is set aside, never a reason to stay down."""
    try:
        ledger = DuckDBLedger(path)
    except Corrupt as damage:
        set_aside(path, damage.message, "damaged")
        ledger = DuckDBLedger(path)
    if ledger.version > SCHEMA_VERSION:
        ledger.close()
        check_version(path, ledger.version)
    return ledger


def _differing(images: tuple[Image, ...], journal: State) -> str:
    """Names of the first entities that a ledger's images show otherwise; empty when they all agree."""
    ledger = State()
    ledger.load(images)
    left, right = (
        {(image.table, image.key): image for image in state.images()} for state in (ledger, journal)
    )
    keys = sorted({key for key in left | right if left.get(key) != right.get(key)}, key=str)
    return ", ".join(f"{table} {key}" for table, key in keys[:3])
