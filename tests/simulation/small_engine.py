"""An engine of a small world: the leases it holds, its report, its part, and what answers make of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.model import PartFile, PartSlice, Tally
from tests.simulation.small_message import Message
from tests.simulation.small_state import BATCH_ID, MODEL


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as its engine sees it: bitmaps of rows to run, finished, in a part without a verdict."""

    chunk_id: int
    token: int
    first: int
    left: int
    finished: int = 0
    writing: int = 0

    @property
    def settled(self) -> bool:
        return not (self.left or self.finished or self.writing)

    @property
    def next_row(self) -> int:
        """Rows of one lease are alike: the first one finishes first."""
        return self.first + (self.left & -self.left).bit_length() - 1

    def after_a_row(self) -> Held:
        row = self.left & -self.left
        return replace(self, left=self.left & ~row, finished=self.finished | row)


@dataclass(frozen=True, slots=True)
class Engine:
    number: int  #: its place in the world
    life: int = 1
    seq: int = 0
    held: tuple[Held, ...] = ()
    reporting: bool = False  #: a report has no answer yet
    part: e.PartWritten | None = None  #: without a verdict yet

    @property
    def engine_id(self) -> str:
        return f"e{self.number}"

    def listens(self, message: Message) -> bool:
        """To the answer to what it asked last, in this life."""
        if isinstance(message.event, e.EngineReport):
            return (message.life, message.event.seq) == (self.life, self.seq)
        return message.event == self.part

    def born_again(self) -> Engine:
        return Engine(self.number, self.life + 1)

    # -- rows and reports ----------------------------------------------------------------------------------

    def after_a_row(self, held: Held) -> Engine:
        """``held``: the lease that the row is of."""
        return replace(self, held=tuple(one.after_a_row() if one is held else one for one in self.held))

    def reporting_anew(self) -> Engine:
        return replace(self, seq=self.seq + 1, reporting=True)

    def report(self, rows_max: int) -> e.EngineReport:
        """``rows_max``: that it holds unfinished at most."""
        unfinished = sum(held.left.bit_count() for held in self.held)
        return e.EngineReport(
            reply_to="",
            engine_id=self.engine_id,
            incarnation=float(self.life),
            seq=self.seq,
            models=(MODEL,),
            phase=e.EnginePhase.READY,
            held=tuple(e.HeldLease(held.chunk_id, held.token) for held in self.held),
            wants_rows=max(0, rows_max - unfinished),
            window=rows_max,
            running=0,
            rows_per_s=0.0,
            tokens_per_s=0.0,
            pid=1,
            child_pids=(),
        )

    def obeying(self, orders: cmd.EngineOrders) -> Engine:
        """Rows of a dropped lease stop, and a lease of a chunk that is still held is not taken."""
        assert not orders.superseded, "an engine that lives is sent away"
        dropped = [replace(one, left=0) if one.chunk_id in orders.dropped else one for one in self.held]
        still = {one.chunk_id for one in self.held}
        taken = [
            Held(one.chunk_id, one.token, one.first, one.rows)
            for one in orders.leases
            if one.chunk_id not in still
        ]
        return replace(self, reporting=False)._holding((*dropped, *taken))

    # -- parts ---------------------------------------------------------------------------------------------

    def writing_a_part(self) -> Engine:
        """Of all that has finished. The part's id says which rows those are, under which tokens."""
        pieces = tuple(
            PartSlice(one.chunk_id, one.token, one.first, one.finished, Tally(one.finished.bit_count()))
            for one in self.held
            if one.finished
        )
        rows = ",".join(f"{piece.chunk_id}@{piece.token}={piece.rows:b}" for piece in pieces)
        part_id = f"{self.engine_id}.{self.life}:{rows}"
        count = sum(piece.rows.bit_count() for piece in pieces)
        part = PartFile(part_id, f"{part_id}.parquet", 1, count, "crc32c:0")
        written = e.PartWritten("", self.engine_id, BATCH_ID, part, pieces)
        held = [replace(one, finished=0, writing=one.writing | one.finished) for one in self.held]
        return replace(self, part=written)._holding(held)

    def saying_its_part(self) -> Engine:
        """Once more: what is answered to an earlier asking has no hearer."""
        assert self.part is not None
        return replace(self, part=replace(self.part, reply_to=self.part.reply_to + "I"))

    def judged(self, written: e.PartWritten) -> Engine:
        """There is a verdict on the part, whichever it is."""
        settled = {piece.chunk_id: piece.rows for piece in written.slices}
        held = [replace(one, writing=one.writing & ~settled.get(one.chunk_id, 0)) for one in self.held]
        return replace(self, part=None)._holding(held)

    def _holding(self, held: Iterable[Held]) -> Engine:
        return replace(self, held=tuple(one for one in held if not one.settled))
