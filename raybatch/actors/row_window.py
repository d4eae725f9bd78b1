"""The engine's rows: a window kept full across leases and batches, with no barrier anywhere.

As a row finishes, the next one enters: of the batch with the highest priority, among equals of the one with
the fewest expected tokens in flight, in the order its leases came; the last ones the longest first. Finished
rows gather per batch until they are written as one part. Refuses to talk to the scheduler: ``add`` takes
leases in, ``take_finished`` gives rows out.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from raybatch.actors import last_wave
from raybatch.actors.held_lease import HeldLease, RequestRow
from raybatch.actors.row_lengths import RowLengths
from raybatch.core.commands import Lease
from raybatch.core.events import RowsInFlight
from raybatch.core.model import ResultRow
from raybatch.core.outcome import Outcome, judge
from raybatch.core.rows import bitmap_of
from raybatch.engine.contract import Engine, EngineReply
from raybatch.errors import EngineDied
from raybatch.wire.result_line import Origin, Unanswered, answered_row, refused_row, unanswered_row

RETRY_WAIT_S: Final = 0.5  #: doubled with every try

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Line:
    """One batch's leases in the order they came."""

    leases: deque[HeldLease] = field(default_factory=deque)
    running: int = 0
    lengths: RowLengths = field(default_factory=RowLengths)
    wave: deque[HeldLease] = field(default_factory=deque)  #: whose row enters, in turn, before the others

    def is_over(self) -> bool:
        """Nothing waits and nothing runs. Forgets the leases at its head that have no more to give."""
        while self.leases and not self.leases[0].waiting:
            self.leases.popleft()
        return not self.leases and not self.running

    def turn(self) -> tuple[int, float]:
        """The least goes next. Only for a line with leases."""
        lease = self.leases[0].lease
        return -lease.priority, self.running * lease.row_tokens

    def next_lease(self) -> HeldLease:
        """The lease whose next row enters. Only for a line with leases."""
        while self.wave:
            held = self.wave.popleft()
            if held.waiting:
                return held
        return self.leases[0]

    def put_longest_first(self) -> None:
        """What waits, across its leases."""
        waiting = [(held, row) for held in self.leases for row in held.waiting]
        if not 1 < len(waiting) <= last_wave.ROWS_MAX:
            return
        endpoint = self.leases[0].lease.endpoint
        order = last_wave.longest_first([row for _, row in waiting], endpoint, self.lengths.expected)
        for held in self.leases:
            held.waiting.clear()
        self.wave.clear()
        for held, row in map(waiting.__getitem__, order):
            held.waiting.append(row)
            self.wave.append(held)


class RowWindow:
    """On one event loop. ``changed`` is called whenever a row finished or a lease became idle."""

    def __init__(
        self,
        engine: Engine,
        engine_id: str,
        window_rows: int,
        tries_max: int,
        changed: Callable[[], None],
        died: Callable[[], None],
        row_max_s: float = 0.0,
    ) -> None:
        """``row_max_s``: a row without an answer by then gets an error row; 0: no limit."""
        self._engine = engine
        self._engine_id = engine_id
        self._tries_max = tries_max
        self._row_max_s = row_max_s or None
        self._changed = changed
        self._died = died
        self._lines: dict[str, _Line] = {}  #: by batch: leases with waiting rows, and what is in flight
        self._tasks: dict[asyncio.Task[None], tuple[HeldLease, RequestRow]] = {}
        self._fallen: list[tuple[HeldLease, RequestRow]] = []  #: with the engine; none starts after
        self._open = True
        self.window_rows = window_rows
        self.held: dict[int, HeldLease] = {}  #: by chunk id, until settled
        self.finished_rows = 0  #: since the start
        self.completion_tokens = 0

    @property
    def running(self) -> int:
        return len(self._tasks)

    @property
    def unfinished_rows(self) -> int:
        return sum(held.unfinished_rows for held in self.held.values())

    @property
    def uncommitted_rows(self) -> int:
        return sum(len(held.finished) + held.writing for held in self.held.values())

    def add(self, lease: Lease, rows: list[RequestRow]) -> None:
        held = HeldLease(lease, deque(rows))
        self.held[lease.chunk_id] = held
        line = self._lines.setdefault(lease.batch_id, _Line())
        line.leases.append(held)
        self._fill()

    def begin_last_wave(self) -> None:
        """No more rows come for now: those that wait enter in the order that ends them soonest."""
        for line in self._lines.values():
            line.put_longest_first()

    def resize(self, window_rows: int) -> None:
        """Rows beyond it finish; no other takes their place."""
        grown = window_rows > self.window_rows
        self.window_rows = window_rows
        if grown:
            self._fill()

    def give_back(self, chunk_id: int) -> None:
        """Start no further row of a lease. What runs is finished and offered."""
        held = self.held.get(chunk_id)
        if held is not None and held.waiting:
            held.waiting.clear()
            self._changed()

    def drop(self, chunk_id: int) -> None:
        """Abort what waits and runs of a lease. Its finished rows are still offered."""
        held = self.held.get(chunk_id)
        if held is None or held.dropped:
            return
        held.dropped = True
        held.waiting.clear()
        for task, (owner, _) in self._tasks.items():
            if owner is held:
                task.cancel()
        self._changed()

    def close(self) -> None:
        """Start no further row; give back the waiting ones."""
        self._open = False
        for held in self.held.values():
            held.waiting.clear()
        self._changed()

    def open(self) -> None:
        """After ``close``: rows that are added from now on start again."""
        self._open = True

    def abort(self) -> None:
        """Cancel what still runs."""
        for task in self._tasks:
            task.cancel()

    def rows_at_death(self) -> tuple[RowsInFlight, ...]:
        """What was in flight when the engine died, or runs still. Ask before ``abort``."""
        found: dict[int, tuple[HeldLease, list[int]]] = {}
        for held, row in (*self._fallen, *self._tasks.values()):
            if row.refusal is None:
                offset = row.position - held.lease.first
                found.setdefault(held.lease.chunk_id, (held, []))[1].append(offset)
        return tuple(
            RowsInFlight(chunk_id, held.lease.token, bitmap_of(offsets))
            for chunk_id, (held, offsets) in found.items()
        )

    def take_finished(self, batch_id: str) -> dict[int, list[ResultRow]]:
        """Finished rows of a batch by chunk id, now being written."""
        taken: dict[int, list[ResultRow]] = {}
        for chunk_id, held in self.held.items():
            if held.lease.batch_id == batch_id and held.finished:
                taken[chunk_id], held.finished = held.finished, []
                held.writing += len(taken[chunk_id])
        return taken

    def settle(self, chunk_id: int, rows: int) -> None:
        """The scheduler has given its verdict on so many rows of a lease."""
        held = self.held[chunk_id]
        held.writing -= rows
        self.forget_settled()

    def forget_settled(self) -> None:
        for chunk_id in [chunk_id for chunk_id, held in self.held.items() if held.settled]:
            del self.held[chunk_id]

    # -- rows ----------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        while self._open and not self._fallen and len(self._tasks) < self.window_rows:
            held = self._next()
            if held is None:
                return
            row = held.waiting.popleft()
            held.running += 1
            self._lines[held.lease.batch_id].running += 1
            task = asyncio.create_task(self._run(held, row))
            self._tasks[task] = held, row
            task.add_done_callback(self._ended)

    def _next(self) -> HeldLease | None:
        """The lease whose next row enters; None when no row waits."""
        for batch_id in [batch_id for batch_id, line in self._lines.items() if line.is_over()]:
            del self._lines[batch_id]
        waiting = [line for line in self._lines.values() if line.leases]
        return min(waiting, key=_Line.turn).next_lease() if waiting else None

    def _ended(self, task: asyncio.Task[None]) -> None:
        held, row = self._tasks.pop(task)
        held.running -= 1
        self._lines[held.lease.batch_id].running -= 1
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, EngineDied):
                held.fallen = True
                self._fallen.append((held, row))
                self._died()
            elif error is not None:
                log.error("a row of %s could not be run", held.lease.batch_id, exc_info=error)
                self._died()
        self._fill()
        self._changed()

    async def _run(self, held: HeldLease, row: RequestRow) -> None:
        started_at = time.time()
        row_id = uuid.uuid4().hex
        if row.refusal is not None:
            origin = self._origin(held, row, started_at)
            self._finish(held, refused_row(origin, *row.refusal, row_id=f"batch_req_{row_id}"))
            return
        try:
            async with asyncio.timeout(self._row_max_s):
                reply, tries = await self._answer(held.lease.endpoint, row, f"req_{row_id}")
        except TimeoutError:
            origin = self._origin(held, row, started_at)
            self._finish(held, unanswered_row(origin, Unanswered.TIMED_OUT, row_id=f"batch_req_{row_id}"))
            return
        origin = self._origin(held, row, started_at, tries)
        answered = answered_row(
            origin, reply.status, reply.body, row_id=f"batch_req_{row_id}", request_id=f"req_{row_id}"
        )
        if answered.completed:
            self._lines[held.lease.batch_id].lengths.note(row, answered.completion_tokens)
        self._finish(held, answered)

    async def _answer(self, url: str, row: RequestRow, request_id: str) -> tuple[EngineReply, int]:
        """The answer that counts, and how often the row was tried for it."""
        tries = 0
        while True:
            reply = await self._engine.generate(
                url, row.body, request_id if not tries else f"{request_id}-{tries}"
            )
            tries += 1
            if judge(reply.status, tries, self._tries_max) is not Outcome.TRY_AGAIN:
                return reply, tries
            await asyncio.sleep(RETRY_WAIT_S * 2 ** (tries - 1))

    def _origin(self, held: HeldLease, row: RequestRow, started_at: float, tries: int = 1) -> Origin:
        return Origin(
            position=row.position,
            index=row.index,
            custom_id=row.custom_id,
            attempt=held.lease.attempt + tries - 1,
            engine_id=self._engine_id,
            started_at=started_at,
            finished_at=time.time(),
        )

    def _finish(self, held: HeldLease, row: ResultRow) -> None:
        held.finished.append(row)
        self.finished_rows += 1
        self.completion_tokens += row.completion_tokens
