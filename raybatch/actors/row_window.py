"""The engine's rows: a window kept full across leases and batches, with no barrier anywhere.

As a row finishes, the next one enters in the order the leases came. Finished rows gather per batch until
they are written as one part. Refuses to talk to the scheduler: ``add`` takes leases in, ``take_finished``
gives rows out.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Final

from raybatch.actors.held_lease import HeldLease, RequestRow
from raybatch.core.commands import Lease
from raybatch.core.model import ResultRow
from raybatch.core.outcome import Outcome, judge
from raybatch.engine.contract import Engine, EngineReply
from raybatch.errors import EngineDied
from raybatch.wire.result_line import Origin, answered_row, refused_row

RETRY_WAIT_S: Final = 0.5  #: doubled with every try

log = logging.getLogger(__name__)


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
    ) -> None:
        self._engine = engine
        self._engine_id = engine_id
        self._tries_max = tries_max
        self._changed = changed
        self._died = died
        self._order: deque[HeldLease] = deque()  #: leases with waiting rows
        self._tasks: dict[asyncio.Task[None], HeldLease] = {}
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
        self._order.append(held)
        self._fill()

    def drop(self, chunk_id: int) -> None:
        """Abort what waits and runs of a lease. Its finished rows are still offered."""
        held = self.held.get(chunk_id)
        if held is None or held.dropped:
            return
        held.dropped = True
        held.waiting.clear()
        for task, owner in self._tasks.items():
            if owner is held:
                task.cancel()
        self._changed()

    def close(self) -> None:
        """Start no further row; give back the waiting ones."""
        self._open = False
        self._order.clear()
        for held in self.held.values():
            held.waiting.clear()
        self._changed()

    def abort(self) -> None:
        """Cancel what still runs."""
        for task in self._tasks:
            task.cancel()

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
        while self._open and len(self._tasks) < self.window_rows and self._order:
            held = self._order[0]
            if not held.waiting:
                self._order.popleft()
                continue
            row = held.waiting.popleft()
            held.running += 1
            task = asyncio.create_task(self._run(held, row))
            self._tasks[task] = held
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        held = self._tasks.pop(task)
        held.running -= 1
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, EngineDied):
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
        reply = await self._answer(held.lease.endpoint, row, f"req_{row_id}")
        origin = self._origin(held, row, started_at)
        self._finish(
            held,
            answered_row(
                origin, reply.status, reply.body, row_id=f"batch_req_{row_id}", request_id=f"req_{row_id}"
            ),
        )

    async def _answer(self, url: str, row: RequestRow, request_id: str) -> EngineReply:
        tries = 0
        while True:
            reply = await self._engine.generate(
                url, row.body, request_id if not tries else f"{request_id}-{tries}"
            )
            tries += 1
            if judge(reply.status, tries, self._tries_max) is not Outcome.TRY_AGAIN:
                return reply
            await asyncio.sleep(RETRY_WAIT_S * 2 ** (tries - 1))

    def _origin(self, held: HeldLease, row: RequestRow, started_at: float) -> Origin:
        return Origin(
            position=row.position,
            index=row.index,
            custom_id=row.custom_id,
            attempt=held.lease.attempt,
            engine_id=self._engine_id,
            started_at=started_at,
            finished_at=time.time(),
        )

    def _finish(self, held: HeldLease, row: ResultRow) -> None:
        held.finished.append(row)
        self.finished_rows += 1
        self.completion_tokens += row.completion_tokens
