"""An engine of the simulated world: it holds leases, finishes rows in any order, writes parts, and forgets
everything when it is born again. It trusts no message to arrive, nor to arrive once.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import Final

from raybatch.core.commands import EngineOrders, Lease, Verdict
from raybatch.core.events import EnginePhase, EngineReport, HeldLease, PartWritten
from raybatch.core.model import PartFile, PartSlice, Tally, Usage
from raybatch.core.rows import bitmap_of, offsets_of

LOAD_S: Final = 3.0
FAILED_S: Final = 5.0  #: a failed load is shown for so long


@dataclass(frozen=True, slots=True)
class DiskRow:
    """A row in a file, as a reader of results would find it."""

    position: int
    ok: bool
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Finished:
    batch_id: str
    chunk_id: int
    token: int
    first: int
    row: DiskRow


@dataclass(slots=True)
class Held:
    lease: Lease
    left: int  #: bitmap of rows still to run
    unsettled: int = 0  #: bitmap of rows finished or written, without a verdict

    @property
    def settled(self) -> bool:
        return not self.left and not self.unsettled


@dataclass(slots=True)
class SimEngine:
    engine_id: str
    incarnation: float
    model: str | None  #: None: a slot that was not told yet
    rng: Random
    slot: bool = False
    phase: EnginePhase = EnginePhase.READY
    phase_at_s: float = 0.0
    seq: int = 0
    superseded: bool = False
    waits_for_orders: bool = False
    held: dict[int, Held] = field(default_factory=dict)
    finished: list[Finished] = field(default_factory=list)
    unacknowledged: dict[str, PartWritten] = field(default_factory=dict)
    parts_written: int = 0

    def born_again(self) -> SimEngine:
        if not self.slot:
            return SimEngine(self.engine_id, self.incarnation + 1.0, self.model, self.rng)
        phase = EnginePhase.IDLE
        return SimEngine(self.engine_id, self.incarnation + 1.0, None, self.rng, slot=True, phase=phase)

    def over(self, now_s: float) -> bool:
        """A slot whose process ends: it has left its model behind, or could not load it."""
        if self.phase is EnginePhase.FAILED:
            return now_s - self.phase_at_s >= FAILED_S
        left = self.held or self.finished or self.unacknowledged
        return self.phase is EnginePhase.DRAINING and not left

    def load(self, now_s: float, *, fails: bool) -> None:
        if self.phase is EnginePhase.LOADING and now_s - self.phase_at_s >= LOAD_S:
            self._turn(EnginePhase.FAILED if fails else EnginePhase.READY, now_s)

    def last_word(self, now_s: float) -> EngineReport:
        if self.phase is not EnginePhase.FAILED:
            self._turn(EnginePhase.STOPPED, now_s)
        return self.report(wants_rows=0, now_s=now_s)

    def _turn(self, phase: EnginePhase, now_s: float) -> None:
        self.phase, self.phase_at_s = phase, now_s

    def report(self, *, wants_rows: int, now_s: float) -> EngineReport:
        self.seq += 1
        self.waits_for_orders = True
        return EngineReport(
            reply_to=f"engine/{self.engine_id}/{self.incarnation}/{self.seq}",
            engine_id=self.engine_id,
            incarnation=self.incarnation,
            seq=self.seq,
            models=() if self.model is None else (self.model,),
            phase=self.phase,
            held=tuple(HeldLease(held.lease.chunk_id, held.lease.token) for held in self.held.values()),
            wants_rows=wants_rows,
            window=32,
            running=0,
            rows_per_s=0.0,
            tokens_per_s=0.0,
            pid=1,
            child_pids=(),
            slot=self.slot,
            serves=("small", "large", "huge") if self.slot else (),
            load_s=LOAD_S if self.slot else 0.0,
            ready_s=now_s - self.phase_at_s if self.phase is EnginePhase.READY else 0.0,
        )

    def obey(self, orders: EngineOrders, now_s: float, fallback: str) -> None:
        """Also late and repeated orders: only the token decides whether their work will count."""
        self.waits_for_orders = False
        self.superseded = self.superseded or orders.superseded
        for chunk_id in orders.dropped:
            self.held.pop(chunk_id, None)
        if self.phase is EnginePhase.IDLE:
            self.model = orders.model or fallback
            self._turn(EnginePhase.LOADING, now_s)
        elif orders.model is not None and self.phase is EnginePhase.READY:
            self._turn(EnginePhase.DRAINING, now_s)
        for lease in orders.leases:
            self.held[lease.chunk_id] = Held(lease, lease.rows)
        for chunk_id in list(self.held) if self.phase is EnginePhase.DRAINING else orders.give_back:
            held = self.held.get(chunk_id)
            if held is not None:
                held.left = 0
                if held.settled:
                    del self.held[chunk_id]

    def run_rows(self) -> None:
        """Some rows of one lease finish, in any order."""
        busy = [held for held in self.held.values() if held.left]
        if not busy:
            return
        held = self.rng.choice(busy)
        offsets = list(offsets_of(held.left))
        done = self.rng.sample(offsets, self.rng.randint(1, len(offsets)))
        held.left &= ~bitmap_of(done)
        held.unsettled |= bitmap_of(done)
        for offset in done:
            row = DiskRow(held.lease.first + offset, self.rng.random() < 0.9, self.rng.randint(1, 99))
            lease = held.lease
            self.finished.append(Finished(lease.batch_id, lease.chunk_id, lease.token, lease.first, row))

    def flush(self) -> tuple[PartWritten, list[DiskRow]] | None:
        """One part with finished rows of one batch, each position once: the newest token's."""
        if not self.finished:
            return None
        batch_id = self.finished[0].batch_id
        chosen: dict[int, Finished] = {}
        for one in sorted(self.finished, key=lambda one: one.token):
            if one.batch_id == batch_id:
                chosen[one.row.position] = one
        self.finished = [one for one in self.finished if one.batch_id != batch_id]
        self.parts_written += 1
        part_id = f"{self.engine_id}-{self.incarnation}-{self.parts_written}"
        written = part_of(batch_id, part_id, list(chosen.values()), f"part/{self.engine_id}/{part_id}")
        self.unacknowledged[part_id] = written
        return written, [one.row for one in chosen.values()]

    def learn(self, part_id: str, verdicts: tuple[Verdict, ...]) -> None:
        written = self.unacknowledged.pop(part_id, None)
        if written is None:
            return
        for piece, verdict in zip(written.slices, verdicts, strict=True):
            held = self.held.get(piece.chunk_id)
            if held is None or held.lease.token != piece.token:
                continue
            held.unsettled &= ~piece.rows
            if verdict is Verdict.STALE or held.settled:
                del self.held[piece.chunk_id]


def part_of(batch_id: str, part_id: str, rows: list[Finished], reply_to: str) -> PartWritten:
    by_lease: dict[tuple[int, int, int], list[DiskRow]] = defaultdict(list)
    for one in rows:
        by_lease[one.chunk_id, one.token, one.first].append(one.row)
    slices = tuple(
        PartSlice(
            chunk_id, token, first, bitmap_of(row.position - first for row in members), tally_of(members)
        )
        for (chunk_id, token, first), members in by_lease.items()
    )
    part = PartFile(part_id, f"results/{batch_id}/{part_id}.parquet", 1, len(rows), "crc32c:0")
    return PartWritten(reply_to, "engine", batch_id, part, slices)


def tally_of(rows: list[DiskRow]) -> Tally:
    return Tally(
        completed=sum(row.ok for row in rows),
        failed=sum(not row.ok for row in rows),
        output_bytes=sum(row.size_bytes for row in rows if row.ok),
        error_bytes=sum(row.size_bytes for row in rows if not row.ok),
        usage=Usage(len(rows), 2 * len(rows), 0),
    )
