"""An engine's life: load a model, ask for rows, run them, commit what is finished, give back the rest.

Knows nothing of Ray. Four coroutines share one RowWindow: reports (heartbeat and orders), the window's own
rows, commits, and a look at progress and GPUs. The scheduler may be away for a while: rows go on, reports and
commits are sent again until they are answered.

One life serves one model. A slot that is to serve another one ends, and is born again for it: only a fresh
process gives a device back whole.
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

from raybatch.actors.cluster_facts import this_machine
from raybatch.actors.gpu_guard import GpuGuard
from raybatch.actors.part_commits import PartCommits
from raybatch.actors.request_rows import RequestRows
from raybatch.actors.row_window import RowWindow
from raybatch.actors.scheduler_port import SchedulerPort
from raybatch.actors.watchdog import Watchdog
from raybatch.actors.window_size import WindowSize
from raybatch.config import EngineSettings, Home, ModelSettings
from raybatch.core import events as e
from raybatch.core.commands import EngineOrders, Lease
from raybatch.core.credit import asks_at_once, credit_rows, rest_is_near, wanted_rows
from raybatch.crash_points import crash_point
from raybatch.engine.contract import Engine
from raybatch.errors import Corrupt, RaybatchError

ASK_AGAIN_S: Final = 0.5
LOOK_S: Final = 1.0  #: between two looks at progress and GPUs
FAILED_S: Final = 60.0  #: a failed load is shown for so long, then tried again
LAST_COMMIT_S: Final = 15.0  #: after the engine died, finished rows get so long to be committed
LAST_WORD_S: Final = 5.0  #: to say that this life ends; the next one says it, too

log = logging.getLogger(__name__)


class EngineLoop:
    def __init__(
        self,
        make_engine: Callable[[ModelSettings], Awaitable[Engine]],
        scheduler: SchedulerPort,
        home: Home,
        settings: EngineSettings,
        engine_id: str,
        models: tuple[ModelSettings, ...],
        guard: GpuGuard,
        *,
        slot: bool = False,
    ) -> None:
        """``models``: the one it serves, or those a slot may be told to serve."""
        self._make_engine = make_engine
        self._scheduler = scheduler
        self._home = home
        self._settings = settings
        self._engine_id = engine_id
        self._choice = {model.id: model for model in models}
        self._guard = guard
        self._slot = slot
        self._model: ModelSettings | None = None if slot else models[0]
        self._rows = RequestRows(home)
        self._incarnation = time.monotonic()
        self._seq = 0
        self._phase = e.EnginePhase.IDLE if slot else e.EnginePhase.LOADING
        self._error: str | None = None
        self._load_s = 0.0
        self._ready_mono = 0.0
        self._engine: Engine | None = None
        self._window: RowWindow | None = None
        self._abort: asyncio.TimerHandle | None = None  #: of what still runs when a drain takes too long
        self._commits: PartCommits | None = None
        self._size = WindowSize(0)
        self._share = 1.0  #: of the window, as ordered
        self._rates = _Rates()
        self._wake = asyncio.Event()  #: report now
        self._dead = asyncio.Event()
        self._swap_asked = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._more_expected = False  #: the last report brought rows
        self._left_rows = 0  #: known to be waiting for this engine and no other
        self._in_flight: tuple[e.RowsInFlight, ...] = ()  #: at the engine's death, when a row may be to blame

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stop_asked.set()
        self._swap_asked.set()
        self._wake.set()

    async def run(self) -> str:
        """Until it died, failed, was stopped or superseded; answers why. The process should then end."""
        looking = asyncio.create_task(self._guard.keep_looking(LOOK_S, self._wake.set))
        try:
            why = await self._load()
            if self._engine is not None and self._phase is e.EnginePhase.READY:
                why = await self._serve(self._engine)
            crash_point("engine.ending")
            await self._last_word(why)
            return why
        finally:
            looking.cancel()

    # -- loading -------------------------------------------------------------------------------------------

    async def _load(self) -> str:
        reports = asyncio.create_task(self._report_until_loaded())
        try:
            orders = await self._report()
            await asyncio.sleep(orders.hold_s)
            if self._model is None:
                self._model = await self._chosen(orders)
            self._phase = e.EnginePhase.LOADING
            started_mono = time.monotonic()
            self._engine = await self._make_engine(self._model)
            await self._engine.start()
            self._load_s = time.monotonic() - started_mono
            self._ready_mono = time.monotonic()
            self._phase = e.EnginePhase.READY
            return ""
        except RaybatchError as failure:
            log.error("engine %s: %s", self._engine_id, failure.message)
            self._phase, self._error = e.EnginePhase.FAILED, failure.message
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAILED_S):
                    await self._swap_asked.wait()
            return failure.message
        finally:
            reports.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reports

    async def _chosen(self, orders: EngineOrders) -> ModelSettings:
        """The model ordered; without an order the first one, to have it warm, unless it is to stay idle."""
        while orders.model is None and orders.stay_idle and not self._stop_asked.is_set():
            orders = await self._report()
            await asyncio.sleep(self._settings.report_s)
        return self._choice.get(orders.model or "") or next(iter(self._choice.values()))

    async def _report_until_loaded(self) -> None:
        """A heartbeat beside what takes long. Ends by itself, too: a cancellation can be lost on its way."""
        while self._phase is not e.EnginePhase.READY:
            await asyncio.sleep(self._settings.report_s)
            if self._phase is e.EnginePhase.IDLE:
                continue
            orders = await self._report()
            if orders.superseded or (orders.model and self._phase is e.EnginePhase.FAILED):
                self._swap_asked.set()

    # -- serving -------------------------------------------------------------------------------------------

    async def _serve(self, engine: Engine) -> str:
        assert self._model is not None
        self._size = WindowSize(self._settings.window_rows or engine.window)
        self._window = RowWindow(
            engine,
            self._engine_id,
            self._allowed_rows(),
            self._settings.row_attempts_max,
            changed=self._row_finished,
            died=self._die,
            row_max_s=self._settings.row_max_s,
        )
        self._commits = PartCommits(
            self._window, self._scheduler, self._home, self._settings, self._engine_id, self._wake.set
        )
        log.info("engine %s ready: %s, window %d", self._engine_id, self._model.id, self._window.window_rows)
        tasks = [
            asyncio.create_task(self._report_loop(self._window)),
            asyncio.create_task(self._commits.keep_committing()),
            asyncio.create_task(self._look_loop(engine, self._window)),
        ]
        over = [asyncio.create_task(self._dead.wait()), asyncio.create_task(self._stop_asked.wait())]
        try:
            done, _ = await asyncio.wait([*tasks, *over], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task in tasks:
                    task.result()
            await self._blame(engine, self._window)
            self._window.close()
            self._window.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_COMMIT_S):
                    await self._commits.commit_everything()
            return self._error or "stopped"
        finally:
            for task in (*tasks, *over):
                task.cancel()
            await engine.stop()

    def _die(self, why: str = "the engine died") -> None:
        if not self._dead.is_set():
            self._error = why
            self._dead.set()

    async def _blame(self, engine: Engine, window: RowWindow) -> None:
        """A kill from outside and a broken GPU are no row's fault."""
        if not self._dead.is_set() or self._guard.verdict.needs_restart:
            return
        if not await engine.killed_from_outside():
            self._in_flight = window.rows_at_death()

    async def _look_loop(self, engine: Engine, window: RowWindow) -> None:
        """Is it still moving, is its GPU fit, and how many rows can it use?"""
        watchdog = Watchdog(self._settings.hang_s)
        generates_apart = bool(engine.child_pids())
        while True:
            if generates_apart and not engine.child_pids():  # an idle one has no row to notice it by
                self._die()
            progress = engine.progress()
            self._size.note(progress, window.running)
            window.resize(self._allowed_rows())
            stalled_s = watchdog.stalled_s(progress, window.running, time.monotonic())
            if stalled_s is not None:
                self._die(f"it hangs: {window.running} rows in flight and no progress for {stalled_s:.0f} s")
            if self._guard.verdict.needs_restart:
                self._die("; ".join(self._guard.verdict.reasons))
            await asyncio.sleep(LOOK_S)

    def _allowed_rows(self) -> int:
        return self._size.rows(min(self._share, self._guard.verdict.window_share))

    async def _last_word(self, why: str) -> None:
        """So that rows and slot are free at once, and an end on purpose does not count as a crash."""
        failed = self._phase is e.EnginePhase.FAILED
        if not failed:
            self._phase = e.EnginePhase.DIED if self._dead.is_set() else e.EnginePhase.STOPPED
            self._error = why if self._dead.is_set() else None
        self._window = None
        with contextlib.suppress(TimeoutError, RaybatchError):
            async with asyncio.timeout(LAST_WORD_S):
                await self._scheduler.ask(self._make_report())

    # -- reports -------------------------------------------------------------------------------------------

    async def _report_loop(self, window: RowWindow) -> None:
        while True:
            window.resize(self._allowed_rows())
            orders = await self._report()
            crash_point("engine.ordered")
            await self._obey(orders, window)
            self._wake.clear()
            if self._asks_at_once():
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.report_s):
                    await self._wake.wait()

    async def _report(self) -> EngineOrders:
        """Sent again with a higher number until it is answered."""
        while True:
            try:
                orders = await self._scheduler.ask(self._make_report())
                assert isinstance(orders, EngineOrders), orders
                return orders
            except RaybatchError as refusal:
                log.debug("no answer to a report: %s", refusal.message)
                await asyncio.sleep(ASK_AGAIN_S)

    def _make_report(self) -> e.EngineReport:
        self._seq += 1
        window = self._window
        rates = self._rates.note(
            window.finished_rows if window else 0, window.completion_tokens if window else 0
        )
        held = window.held.items() if window else ()
        return e.EngineReport(
            reply_to=uuid.uuid4().hex,
            engine_id=self._engine_id,
            incarnation=self._incarnation,
            seq=self._seq,
            models=self._model.names if self._model else (),
            phase=self._phase,
            held=tuple(e.HeldLease(chunk_id, one.lease.token) for chunk_id, one in held),
            wants_rows=self._wanted_rows(),
            window=window.window_rows if window else 0,
            running=window.running if window else 0,
            rows_per_s=rates[0],
            tokens_per_s=rates[1],
            pid=os.getpid(),
            child_pids=self._engine.child_pids() if self._engine else (),
            error=self._error,
            machine=this_machine(),
            slot=self._slot,
            serves=tuple(self._choice) if self._slot else (),
            load_s=self._load_s,
            ready_s=time.monotonic() - self._ready_mono if self._ready_mono else 0.0,
            kv_cache_usage=self._engine.progress().kv_cache_usage if self._engine and window else 0.0,
            gpus=self._guard.readings,
            verdict=self._guard.verdict,
            in_flight=self._in_flight,
        )

    def _credit_rows(self) -> int:
        assert self._window is not None
        return credit_rows(self._window.window_rows, self._rates.rows_per_s)

    def _wanted_rows(self) -> int:
        if self._window is None or self._phase is not e.EnginePhase.READY or not self._window.window_rows:
            return 0
        if self._dead.is_set():
            return 0
        window = self._window
        wanted = wanted_rows(self._credit_rows(), window.unfinished_rows, window.uncommitted_rows)
        near = wanted > 0 and rest_is_near(self._left_rows, window.window_rows)
        return max(wanted, self._left_rows) if near else wanted

    def _asks_at_once(self) -> bool:
        if not self._more_expected or self._window is None or not (wanted := self._wanted_rows()):
            return False
        near = rest_is_near(self._left_rows, self._window.window_rows)
        return near or asks_at_once(wanted, self._credit_rows())

    async def _obey(self, orders: EngineOrders, window: RowWindow) -> None:
        if orders.superseded:
            self._stop_asked.set()
            return
        for chunk_id in orders.dropped:
            window.drop(chunk_id)
        for chunk_id in orders.give_back if window.window_rows else window.held:
            window.give_back(chunk_id)
        self._share = orders.window_share
        window.resize(self._allowed_rows())
        leaving = orders.drain or orders.model is not None
        if leaving and self._phase is e.EnginePhase.READY:
            self._phase = e.EnginePhase.DRAINING
            window.close()
            self._abort = asyncio.get_running_loop().call_later(self._settings.drain_s, window.abort)
            if orders.model is not None:
                self._swap_asked.set()
        elif not leaving and self._phase is e.EnginePhase.DRAINING and not self._swap_asked.is_set():
            self._phase = e.EnginePhase.READY
            if self._abort is not None:
                self._abort.cancel()
            window.open()
        self._more_expected = bool(orders.leases)
        for lease in orders.leases:
            await self._take_lease(lease, window)
        self._left_rows = orders.left_rows or 0
        if orders.left_rows == 0:
            window.begin_last_wave()
        window.forget_settled()
        if self._swap_asked.is_set() and not window.held:
            self._stop_asked.set()

    async def _take_lease(self, lease: Lease, window: RowWindow) -> None:
        """A lease whose rows cannot be read is not held, so the next report gives it back."""
        if lease.chunk_id in window.held:
            return
        try:
            rows = await asyncio.to_thread(self._rows.read, lease)
        except (OSError, Corrupt) as error:
            log.error("the rows of %s cannot be read: %s", lease.batch_id, error)
            return
        window.add(lease, rows)

    def _row_finished(self) -> None:
        assert self._commits is not None
        self._commits.row_finished()
        if self._asks_at_once():
            self._wake.set()


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
