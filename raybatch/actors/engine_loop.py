"""An engine's life: load, ask for rows, run them, commit what is finished, give back the rest.

Knows nothing of Ray. Three coroutines share one RowWindow: reports (heartbeat and orders), the window's own
rows, and commits. The scheduler may be away for a while: rows go on, reports and commits are sent again until
they are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from raybatch.actors.held_lease import slice_of
from raybatch.actors.request_rows import RequestRows
from raybatch.actors.row_window import RowWindow
from raybatch.actors.scheduler_port import SchedulerPort
from raybatch.config import EngineSettings, Home
from raybatch.core import events as e
from raybatch.core.commands import EngineOrders, Lease, Verdict
from raybatch.core.model import PartFile, ResultRow
from raybatch.engine.contract import Engine
from raybatch.errors import Corrupt, NotFound, RaybatchError
from raybatch.storage import parts

ASK_AGAIN_S: Final = 0.5
CREDIT_S: Final = 2.0  #: a fast engine holds rows for about so long
CREDIT_ROWS_MAX: Final = 16_384
COALESCE_S: Final = 0.02  #: rows finish in crowds: look at them together
FAILED_S: Final = 60.0  #: a failed load is shown for so long, then tried again
LAST_COMMIT_S: Final = 15.0  #: after the engine died, finished rows get so long to be committed

log = logging.getLogger(__name__)


class EngineLoop:
    def __init__(
        self,
        make_engine: Callable[[], Awaitable[Engine]],
        scheduler: SchedulerPort,
        home: Home,
        settings: EngineSettings,
        engine_id: str,
        models: tuple[str, ...],
    ) -> None:
        self._make_engine = make_engine
        self._scheduler = scheduler
        self._home = home
        self._settings = settings
        self._engine_id = engine_id
        self._models = models
        self._rows = RequestRows(home)
        self._incarnation = time.monotonic()
        self._seq = 0
        self._phase = e.EnginePhase.LOADING
        self._error: str | None = None
        self._engine: Engine | None = None
        self._window: RowWindow | None = None
        self._rates = _Rates()
        self._wake = asyncio.Event()  #: report now
        self._finished = asyncio.Event()  #: rows to commit
        self._committing = asyncio.Lock()
        self._dead = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._more_expected = False  #: the last report brought rows

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stop_asked.set()
        self._wake.set()

    async def run(self) -> str:
        """Until the engine died, failed or was superseded; answers why. The process should then end."""
        reports = asyncio.create_task(self._report_until_loaded())
        try:
            orders = await self._report()
            await asyncio.sleep(orders.hold_s)
            self._engine = await self._make_engine()
            await self._engine.start()
        except RaybatchError as failure:
            log.error("engine %s: %s", self._engine_id, failure.message)
            self._phase, self._error = e.EnginePhase.FAILED, failure.message
            await asyncio.sleep(FAILED_S)
            return failure.message
        finally:
            reports.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reports
        return await self._serve(self._engine)

    async def _serve(self, engine: Engine) -> str:
        window_rows = self._settings.window_rows or engine.window
        self._window = RowWindow(
            engine,
            self._engine_id,
            window_rows,
            self._settings.row_attempts_max,
            changed=self._row_finished,
            died=self._dead.set,
        )
        self._phase = e.EnginePhase.READY
        log.info("engine %s ready: %s, window %d", self._engine_id, self._models[0], window_rows)
        tasks = [asyncio.create_task(self._report_loop()), asyncio.create_task(self._commit_loop())]
        over = [asyncio.create_task(self._dead.wait()), asyncio.create_task(self._stop_asked.wait())]
        try:
            done, _ = await asyncio.wait([*tasks, *over], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task in tasks:
                    task.result()
            why = "the engine died" if self._dead.is_set() else "stopped"
            self._window.close()
            self._window.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_COMMIT_S):
                    await self._commit_everything()
            return why
        finally:
            for task in (*tasks, *over):
                task.cancel()
            await engine.stop()

    # -- reports -------------------------------------------------------------------------------------------

    async def _report_until_loaded(self) -> None:
        while True:
            await asyncio.sleep(self._settings.report_s)
            await self._report()

    async def _report_loop(self) -> None:
        while True:
            orders = await self._report()
            await self._obey(orders)
            self._wake.clear()
            if self._more_expected and self._wanted_rows() > self._credit_rows() // 2:
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._settings.report_s)

    async def _report(self) -> EngineOrders:
        """Sent again with a higher number until it is answered."""
        while True:
            self._seq += 1
            try:
                orders = await self._scheduler.ask(self._make_report())
                assert isinstance(orders, EngineOrders), orders
                return orders
            except RaybatchError as refusal:
                log.debug("no answer to a report: %s", refusal.message)
                await asyncio.sleep(ASK_AGAIN_S)

    def _make_report(self) -> e.EngineReport:
        window = self._window
        rates = self._rates.note(
            window.finished_rows if window else 0, window.completion_tokens if window else 0
        )
        return e.EngineReport(
            reply_to=uuid.uuid4().hex,
            engine_id=self._engine_id,
            incarnation=self._incarnation,
            seq=self._seq,
            models=self._models,
            phase=self._phase,
            held=tuple(e.HeldLease(chunk_id, held.lease.token) for chunk_id, held in window.held.items())
            if window
            else (),
            wants_rows=self._wanted_rows(),
            window=window.window_rows if window else 0,
            running=window.running if window else 0,
            rows_per_s=rates[0],
            tokens_per_s=rates[1],
            pid=os.getpid(),
            child_pids=self._engine.child_pids() if self._engine else (),
            error=self._error,
        )

    def _credit_rows(self) -> int:
        """Rows to hold unfinished: two windows, or what a fast engine runs through in a moment."""
        assert self._window is not None
        by_rate = int(CREDIT_S * self._rates.rows_per_s)
        return min(max(2 * self._window.window_rows, by_rate), CREDIT_ROWS_MAX)

    def _wanted_rows(self) -> int:
        if self._window is None or self._phase is not e.EnginePhase.READY:
            return 0
        credit = self._credit_rows()
        if self._window.uncommitted_rows > 4 * credit:  # commits do not keep up: a full disk, say
            return 0
        return max(0, credit - self._window.unfinished_rows)

    async def _obey(self, orders: EngineOrders) -> None:
        assert self._window is not None
        if orders.superseded:
            self._stop_asked.set()
            return
        for chunk_id in orders.dropped:
            self._window.drop(chunk_id)
        if orders.drain and self._phase is e.EnginePhase.READY:
            self._phase = e.EnginePhase.DRAINING
            self._window.close()
            asyncio.get_running_loop().call_later(self._settings.drain_s, self._window.abort)
        self._more_expected = bool(orders.leases)
        for lease in orders.leases:
            await self._take_lease(lease)
        self._window.forget_settled()

    async def _take_lease(self, lease: Lease) -> None:
        """A lease whose rows cannot be read is not held, so the next report gives it back."""
        assert self._window is not None
        if lease.chunk_id in self._window.held:
            return
        try:
            rows = await asyncio.to_thread(self._rows.read, lease)
        except (OSError, Corrupt) as error:
            log.error("the rows of %s cannot be read: %s", lease.batch_id, error)
            return
        self._window.add(lease, rows)

    # -- commits -------------------------------------------------------------------------------------------

    def _row_finished(self) -> None:
        assert self._window is not None
        self._finished.set()
        if self._more_expected and self._wanted_rows() > self._credit_rows() // 2:
            self._wake.set()

    async def _commit_loop(self) -> None:
        assert self._window is not None
        first_mono: dict[str, float] = {}  #: by batch: when its oldest uncommitted row was seen
        wait_s: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._finished.wait(), wait_s)
            self._finished.clear()
            for batch_id in self._batches():
                seen_mono = first_mono.setdefault(batch_id, time.monotonic())
                overdue = time.monotonic() - seen_mono >= self._settings.flush_s
                if overdue or self._due_now(batch_id):
                    await self._commit(batch_id)
                    del first_mono[batch_id]
            wait_s = self._settings.flush_s if first_mono else None
            await asyncio.sleep(COALESCE_S)

    def _batches(self) -> list[str]:
        assert self._window is not None
        return list(
            dict.fromkeys(held.lease.batch_id for held in self._window.held.values() if held.finished)
        )

    def _due_now(self, batch_id: str) -> bool:
        """Enough rows, or nothing more is coming: no stall at the end of a batch."""
        assert self._window is not None
        mine = [held for held in self._window.held.values() if held.lease.batch_id == batch_id]
        rows = sum(len(held.finished) for held in mine)
        return rows >= self._settings.flush_rows or all(held.idle for held in mine)

    async def _commit_everything(self) -> None:
        async with self._committing:  # what the commit loop has under way is seen through
            pass
        while batches := self._batches():
            for batch_id in batches:
                await self._commit(batch_id)

    async def _commit(self, batch_id: str) -> None:
        """Write one part of a batch's finished rows and see it through to the scheduler's verdict."""
        async with self._committing:
            await self._commit_part(batch_id)

    async def _commit_part(self, batch_id: str) -> None:
        assert self._window is not None
        taken = self._window.take_finished(batch_id)
        if not taken:
            return
        leases = {chunk_id: self._window.held[chunk_id].lease for chunk_id in taken}
        rows = [row for chunk_rows in taken.values() for row in chunk_rows]
        slices = tuple(slice_of(leases[chunk_id], chunk_rows) for chunk_id, chunk_rows in taken.items())
        part = await self._write(batch_id, rows)
        while True:
            written = e.PartWritten(uuid.uuid4().hex, self._engine_id, batch_id, part, slices)
            try:
                verdicts = await self._scheduler.ask(written)
                break
            except NotFound:
                part = await self._write(batch_id, rows)
            except RaybatchError as refusal:
                log.debug("no verdict on part %s yet: %s", part.part_id, refusal.message)
                await asyncio.sleep(ASK_AGAIN_S)
        if all(verdict is Verdict.STALE for verdict in verdicts):
            await asyncio.to_thread(parts.remove, self._home.root, part)
        for chunk_id, chunk_rows in taken.items():
            self._window.settle(chunk_id, len(chunk_rows))
        self._wake.set()

    async def _write(self, batch_id: str, rows: list[ResultRow]) -> PartFile:
        while True:
            try:
                return await asyncio.to_thread(
                    parts.write_part, self._home.root, batch_id, f"part-{uuid.uuid4().hex}", rows
                )
            except OSError as error:
                log.error("a part of %s cannot be written, trying again: %s", batch_id, error)
                await asyncio.sleep(ASK_AGAIN_S)


class _Rates:
    """Rows and tokens a second over the last few seconds of reports."""

    SPAN_S: Final = 5.0

    def __init__(self) -> None:
        self._samples: list[tuple[float, int, int]] = []
        self.rows_per_s = 0.0

    def note(self, rows: int, tokens: int) -> tuple[float, float]:
        now_mono = time.monotonic()
        self._samples = [s for s in self._samples if now_mono - s[0] < self.SPAN_S]
        self._samples.append((now_mono, rows, tokens))
        first = self._samples[0]
        span_s = now_mono - first[0]
        if span_s < 0.05:
            return self.rows_per_s, 0.0
        self.rows_per_s = (rows - first[1]) / span_s
        return self.rows_per_s, (tokens - first[2]) / span_s
