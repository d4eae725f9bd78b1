"""Make journal and ledger whole again from what is left of both, and say what that loses.

A snapshot of either journal segment, or a ledger that can still be read, is a base; ticks carry it on. The
base that reaches furthest is taken. Refuses to lose anything by itself: whoever calls decides, and is told
what it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from raybatch.core.state import Image, State
from raybatch.errors import Corrupt
from raybatch.ledger.contract import SCHEMA_VERSION
from raybatch.ledger.duckdb_ledger import DuckDBLedger
from raybatch.ledger.durable import JOURNAL_NAME, LEDGER_NAME, DurableMemory, Lock, set_aside
from raybatch.ledger.journal import Journal, check_version
from raybatch.ledger.segment import Line, Segment, records, scan, segments, write_segment

PEEKS_MAX = 5


@dataclass(frozen=True, slots=True)
class Recovered:
    """The furthest state that what is left leads to. ``lost``: what was remembered behind it, if anything."""

    state: State
    seq: int
    source: str  #: what it was made from
    damage: tuple[str, ...]  #: of the journal, in words
    lost: str | None


def recover(directory: Path) -> Recovered:
    """Look, and change nothing. Raises Corrupt when nothing is left, InUse while another process has it open.

    Raises OperatorError when a newer version wrote it.
    """
    with closing(Lock(directory)):
        found = [scan(path) for path in segments(directory / JOURNAL_NAME)]
        for segment in found:
            check_version(segment.path, segment.version)
        ledger = _ledger_base(directory / LEDGER_NAME)
        return _furthest(directory, found, ledger)


def rebuild(directory: Path, recovered: Recovered) -> State:
    """Write it down as a journal without damage and a new ledger; what they replace is kept beside them."""
    journal = directory / JOURNAL_NAME
    with closing(Lock(directory)):
        damaged = [path for path in segments(journal) if scan(path).damaged]
        if damaged or recovered.seq != _last_seq(journal):
            stamp = time.time_ns()
            journal.mkdir(parents=True, exist_ok=True)
            for path in segments(journal):
                path.with_name(f"{path.name}.damaged-{stamp}").hardlink_to(path)
            whole = write_segment(journal, recovered.seq, recovered.state.images(), time.time())
            for path in segments(journal):
                if path != whole:
                    path.unlink()
        set_aside(directory / LEDGER_NAME, "the ledger is made again on request", "replaced")
    with closing(DurableMemory(directory)) as memory:
        return memory.load()


def peek(directory: Path) -> tuple[int, State]:
    """The last tick of a journal and the state it leads to, also while a scheduler appends to it.

    Raises Corrupt when the journal is missing or damaged: what is being appended right now is no damage.
    """
    journal = directory / JOURNAL_NAME
    for _ in range(PEEKS_MAX):
        try:
            newest = scan(segments(journal)[-1])
            if newest.lines and not newest.behind and not _ends_a_line(newest):
                return newest.lines[-1].seq, _state_of((), newest.lines)
        except (FileNotFoundError, IndexError):  # rotated away meanwhile, or never there
            continue
    raise Corrupt(f"the journal in {journal} is missing or damaged: see `raybatch rebuild`")


def _ends_a_line(segment: Segment) -> bool:
    """What lies behind the last whole record was written to its end, and is damaged."""
    with segment.path.open("rb") as file:
        file.seek(segment.good_bytes)
        return b"\n" in file.read(segment.size_bytes - segment.good_bytes)


@dataclass(frozen=True, slots=True)
class _Base:
    seq: int
    name: str
    images: tuple[Image, ...] = ()
    snapshot: Line | None = None  #: instead of ``images``, for it is large


def _ledger_base(path: Path) -> _Base | None:
    """None where there is none that this version can read."""
    if not path.exists():
        return None
    try:
        with closing(DuckDBLedger(path)) as ledger:
            check_version(path, ledger.version)
            if ledger.version < SCHEMA_VERSION or ledger.seq == 0:
                return None
            remembered = ledger.load()
    except Corrupt:
        return None
    return _Base(remembered.seq, f"the ledger at commit {remembered.seq}", remembered.images)


def _furthest(directory: Path, found: list[Segment], ledger: _Base | None) -> Recovered:
    lines = [line for segment in found for line in (*segment.lines, *segment.behind)]
    ticks = {line.seq: line for line in lines if not line.is_snapshot}
    bases = [
        _Base(line.seq, f"the journal {line.path.name}", snapshot=line) for line in lines if line.is_snapshot
    ]
    if ledger is not None:
        bases.insert(0, ledger)
    if not bases:
        raise Corrupt(
            f"neither journal nor ledger in {directory} can be read: `raybatch restore` brings a backup back"
        )
    ways = [(base, _way(base, ticks)) for base in bases]
    base, way = max(ways, key=lambda pair: (pair[0].seq + len(pair[1]), pair[0].snapshot is not None))
    seq = base.seq + len(way)
    start = base.images if base.snapshot is None else _images(base.snapshot)
    return Recovered(
        state=_state_of(start, way),
        seq=seq,
        source=base.name,
        damage=tuple(segment.damage for segment in found if segment.damaged),
        lost=_lost(seq, found, ticks, ledger, lines),
    )


def _way(base: _Base, ticks: dict[int, Line]) -> list[Line]:
    """The ticks that carry a base on, without a gap."""
    way: list[Line] = []
    while (tick := ticks.get(base.seq + len(way) + 1)) is not None:
        way.append(tick)
    return way


def _images(snapshot: Line) -> tuple[Image, ...]:
    (record,) = records((snapshot,))
    return record.snapshot or ()


def _state_of(images: tuple[Image, ...], lines: Sequence[Line]) -> State:
    state = State()
    state.load(images)
    for path in dict.fromkeys(line.path for line in lines):
        for record in records([line for line in lines if line.path == path]):
            if record.snapshot is not None:
                state.load(record.snapshot)
            for change in record.changes:
                state.apply(change)
    return state


def _lost(
    seq: int, found: list[Segment], ticks: dict[int, Line], ledger: _Base | None, lines: list[Line]
) -> str | None:
    """What was, or may have been, remembered behind ``seq``."""
    last_at = max((line.at for line in lines if line.seq <= seq), default=0.0)
    since = f"everything remembered after {datetime.fromtimestamp(last_at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    beyond = [number for number in ticks if number > seq]
    if beyond:
        return f"{since}: {max(beyond) - seq} commits, of which {len(beyond)} are whole but do not connect"
    tail = found[-1] if found and found[-1].good_bytes < found[-1].size_bytes else None
    if tail is None or (ledger is not None and ledger.seq == seq):
        return None  # the ledger commits a tick before the next is appended
    if tail.lines or tail.behind:
        whole_end = max(line.end for line in (*tail.lines, *tail.behind))
        if whole_end == tail.size_bytes:
            return None  # only an earlier record is harmed, and another base leads past it
        return f"{since}: {tail.size_bytes - whole_end} bytes at the end of the journal"
    return f"{since}: the newest segment of the journal cannot be read at all"


def _last_seq(journal: Path) -> int:
    return Journal(journal).last_seq
