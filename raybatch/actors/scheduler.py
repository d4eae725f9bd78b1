"""The scheduler's loop: take events, decide, remember, then speak. Knows nothing of Ray.

One coroutine owns the state. Journal and ledger are written on one dedicated thread while it waits, so that
the order is always: decided, durable, said. Reads answer from the last remembered snapshot and never wait for
a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, TypeVar

from raybatch import __version__
from raybatch.actors import reads
from raybatch.actors.pace import Pace
from raybatch.actors.scheduler_port import raise_rejection
from raybatch.core.admission import closed
from raybatch.core.changes import DurableChange, is_durable
from raybatch.core.commands import Command, Rejection, Reply
from raybatch.core.decide import decide, recover
from raybatch.core.decision import Decision
from raybatch.core.estimate import time_left
from raybatch.core.events import (
    Event,
    Now,
    PartWritten,
    QuietMode,
    RatesMeasured,
    SurroundingsSeen,
    Tick,
)
from raybatch.core.model import Batch
from raybatch.core.policy import Policy
from raybatch.core.quiet import QuietHours, is_quiet
from raybatch.core.state import Image, State
from raybatch.crash_points import crash_point
from raybatch.errors import DiskFull, NotFound, RaybatchError, Unavailable
from raybatch.ledger.durable import DurableMemory

EVENTS_PER_TURN_MAX: Final = 512
TICK_S: Final = 0.5
LOOK_S: Final = 5.0  #: between two looks at disk and clock
DISK_FULL_RETRY_S: Final = 1.0
DISK_FULL: Final = Rejection(
    "Unavailable",
    "The disk of this server is full, so nothing new is taken in. Try again once there is space.",
    code="disk_full",
    retry_after_s=60,
)
OPEN_AGAIN_S: Final = 0.5

NEVER_QUIET: Final = QuietHours()

T = TypeVar("T")
log = logging.getLogger(__name__)


class Gateway(Protocol):
    """The way out: makes commands happen, and may lose or repeat them."""

    def send(self, command: Command) -> None: ...


class Witness(Protocol):
    """Hears what was remembered, before anybody is answered; it must not fail, and nobody asks it."""

    def decided(self, event: Event, decision: Decision) -> None: ...

    def remembered(self, took_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class _Letter:
    event: Event
    answer: asyncio.Future[Any]


@dataclass(slots=True)
class _Turn:
    """What a handful of events came to, between taking them and speaking."""

    decided: list[tuple[_Letter, Decision]] = field(default_factory=list)
    failed: list[tuple[_Letter, Exception]] = field(default_factory=list)
    changes: list[DurableChange] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)


class Scheduler:
    def __init__(
        self,
        open_memory: Callable[[], DurableMemory],
        gateway: Gateway,
        policy: Policy,
        home: Path,
        die: Callable[[str], NoReturn] | None = None,
        quiet: QuietHours = NEVER_QUIET,
        models: tuple[str, ...] = (),
    ) -> None:
        """``die``: called when what is in memory can no longer be trusted; must not return. ``models``: ids
        of the configuration.
        """
        self._open_memory = open_memory
        self._gateway = gateway
        self._policy = policy
        self._home = home
        self._quiet = quiet
        self._models = models
        self._die = die or _exit_process
        self._mailbox: asyncio.Queue[_Letter] = asyncio.Queue()
        self._ledger_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._memory: DurableMemory | None = None
        self._state = State()
        self._known = reads.Remembered()
        self._pace = Pace()
        self._started_mono = time.monotonic()
        self._ticked_mono = 0.0
        self._looked_mono = 0.0
        self._commits = 0
        self._disk_full = False
        self._stopping = False
        self._trouble = ""  #: why the ledger is not open yet
        self._ready = asyncio.Event()
        self.witness: Witness | None = None

    # -- the port ------------------------------------------------------------------------------------------

    async def ask(self, event: Event) -> Any:
        """See SchedulerPort.ask."""
        self._check_ready()
        if isinstance(event, PartWritten):
            self._attest(event)
        letter = _Letter(event, asyncio.get_running_loop().create_future())
        self._mailbox.put_nowait(letter)
        return raise_rejection(await letter.answer)

    async def read(self, what: str, *args: Any) -> Any:
        """See SchedulerPort.read."""
        self._check_ready()
        match what:
            case "overview":
                return self._overview()
            case "view":
                return self._view(raise_rejection(reads.batch(self._known, *args)))
            case "views":
                page = raise_rejection(reads.batches(self._known, *args))
                return reads.Page(tuple(self._view(batch) for batch in page.items), page.has_more)
            case "file" | "files" | "batch" | "batches" | "rows" | "manifest" | "log" | "whole_log":
                return raise_rejection(getattr(reads, what)(self._known, *args))
            case _:
                raise NotFound(f"nothing to read called '{what}'")

    async def wait_ready(self) -> None:
        await self._ready.wait()

    def known(self) -> reads.Remembered:
        """The last remembered snapshot; only for this event loop."""
        return self._known

    def known_batch(self, batch_id: str) -> Batch | None:
        return self._known.batches.get(batch_id)

    # -- the loop ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until ``stop``. Opening waits for a previous process to let go of the ledger."""
        await self._load()
        while not self._stopping:
            turn = _Turn()
            for letter in await self._take():
                self._decide(letter, turn)
            crash_point("turn.decided")
            await self._remember(turn)
            crash_point("turn.remembered")
            self._speak(turn)
            crash_point("turn.spoken")
        if self._memory is not None:
            await self._on_ledger_thread(self._memory.close)

    def stop(self) -> None:
        self._stopping = True

    async def _load(self) -> None:
        while self._memory is None:
            try:
                self._memory, self._state = await self._on_ledger_thread(self._open)
            except (RaybatchError, OSError) as error:
                if str(error) != self._trouble:
                    log.error("the ledger cannot be opened yet: %s", error)
                self._trouble = str(error)
                await asyncio.sleep(OPEN_AGAIN_S)
        self._known.take(self._state.images())
        turn = _Turn()
        self._advance(recover(self._state), turn)
        crash_point("scheduler.loaded")
        await self._remember(turn)
        self._ready.set()
        log.info("scheduler ready: %d batches, %d active", len(self._state.batches), len(self._state.active))

    async def _take(self) -> list[_Letter]:
        """At least one event: the next that comes, or the tick when none does."""
        letters: list[_Letter] = []
        wait_s = self._ticked_mono + TICK_S - time.monotonic()
        if wait_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    letters.append(await self._mailbox.get())
        while len(letters) < EVENTS_PER_TURN_MAX and not self._mailbox.empty():
            letters.append(self._mailbox.get_nowait())
        if time.monotonic() - self._ticked_mono >= TICK_S:
            self._ticked_mono = time.monotonic()
            events = (*self._look_around(), *self._measure(), Tick())
            letters += [_Letter(event, asyncio.get_running_loop().create_future()) for event in events]
        return letters

    def _look_around(self) -> tuple[Event, ...]:
        """Disk and clock, every few seconds."""
        if self._looked_mono and self._ticked_mono - self._looked_mono < LOOK_S:
            return ()
        self._looked_mono = self._ticked_mono
        free_bytes = shutil.disk_usage(self._home).free
        mode = QuietMode(self._quiet.mode) if is_quiet(self._quiet, time.time()) else None
        return (SurroundingsSeen(free_bytes, mode),)

    def _measure(self) -> tuple[Event, ...]:
        known = self._known
        active = [known.batches[batch_id] for batch_id in self._state.active]
        gone = [batch_id for batch_id in self._pace.seen if batch_id not in self._state.active]
        ended = [known.batches[batch_id] for batch_id in gone if batch_id in known.batches]
        busy: Counter[str] = Counter()
        for entry in self._state.engines.values():
            if entry.report.running and entry.report.models and not entry.lost:
                busy[entry.report.models[0]] += entry.report.running
        rates = self._pace.note(active, ended, busy, known.rates, self._ticked_mono)
        return (RatesMeasured(rates),) if rates else ()

    def _decide(self, letter: _Letter, turn: _Turn) -> None:
        """Decide on one event and apply it: the next event of this turn sees what it changed."""
        try:
            decision = decide(self._state, letter.event, _now(), self._policy)
        except Exception as error:
            log.exception("no decision on %s", type(letter.event).__name__)
            turn.failed.append((letter, error))
            return
        self._advance(decision, turn)
        turn.decided.append((letter, decision))

    def _advance(self, decision: Decision, turn: _Turn) -> None:
        try:
            for change in decision.changes:
                turn.images.extend(self._state.apply(change))
                if is_durable(change):
                    turn.changes.append(change)
        except Exception:
            log.exception("a decision contradicts the state: %s", decision.changes)
            self._die("the state in memory can no longer be trusted")

    async def _remember(self, turn: _Turn) -> None:
        """No changes, no transaction. A full disk is waited out; anything else is fatal."""
        assert self._memory is not None
        changes, images = tuple(turn.changes), tuple(turn.images)
        began_mono = time.monotonic()
        while changes:
            try:
                await self._on_ledger_thread(self._memory.remember, changes, images, time.time())
                break
            except DiskFull as full:
                if not self._disk_full:
                    log.error("leasing pauses: %s", full.message)
                self._disk_full = True
                await asyncio.sleep(DISK_FULL_RETRY_S)
            except Exception:
                log.exception("a commit failed")
                self._die("a commit failed")
        if changes:
            self._disk_full = False
            self._commits += 1
            self._known.take(images)
            if self.witness is not None:
                self.witness.remembered(time.monotonic() - began_mono)
            await self._keep_house()

    async def _keep_house(self) -> None:
        assert self._memory is not None
        try:
            await self._on_ledger_thread(self._memory.keep_house, self._state, time.time())
        except DiskFull as full:
            log.error("no new journal segment yet: %s", full.message)

    def _speak(self, turn: _Turn) -> None:
        for letter, decision in turn.decided:
            if self.witness is not None:
                self.witness.decided(letter.event, decision)
            value: Any = None
            for command in decision.commands:
                if isinstance(command, Reply):
                    value = command.value
                else:
                    self._gateway.send(command)
            if not letter.answer.done():
                letter.answer.set_result(value)
        for letter, error in turn.failed:
            if not letter.answer.done():
                letter.answer.set_exception(error)

    def _open(self) -> tuple[DurableMemory, State]:
        memory = self._open_memory()
        try:
            return memory, memory.load()
        except BaseException:
            memory.close()
            raise

    def _check_ready(self) -> None:
        """Raises Unavailable, saying why, until the ledger is open: nobody is left waiting."""
        if not self._ready.is_set():
            reason = f": {self._trouble}" if self._trouble else ""
            raise Unavailable(f"The scheduler is starting{reason}", retry_after_s=2)

    # -- looking -------------------------------------------------------------------------------------------

    def _attest(self, written: PartWritten) -> None:
        """A manifest must never name a file that is not there. Raises NotFound."""
        path = self._home / written.part.path
        if not path.is_file() or path.stat().st_size != written.part.size_bytes:
            raise NotFound(
                f"part {written.part.path} is not there with {written.part.size_bytes} bytes: write it again"
            )

    def _view(self, batch: Batch) -> reads.BatchView:
        pace = self._pace.batch(batch)
        known = self._known
        active = (known.batches[batch_id] for batch_id in self._state.active if batch_id in known.batches)
        eta = time_left(batch, active, self._pace.rates(known.rates), self._pace.doubts())
        paused = known.all_paused and batch.active
        return reads.BatchView(batch, pace.rows_per_s, pace.tokens_per_s, None if paused else eta, paused)

    def _overview(self) -> reads.Overview:
        now_mono = time.monotonic()
        engines = []
        for engine_id, entry in sorted(self._state.engines.items()):
            leases = self._state.leases_of(engine_id)
            held_rows = sum(chunk.missing.bit_count() for chunk in leases)
            batches = tuple(dict.fromkeys(chunk.batch_id for chunk in leases))
            engines.append(reads.engine_view(entry, held_rows, batches, now_mono))
        by_status = Counter(str(batch.status) for batch in self._known.batches.values())
        seen = self._state.surroundings
        faults = self._state.model_faults
        return reads.Overview(
            version=__version__,
            pid=os.getpid(),
            state=self._condition(),
            up_s=now_mono - self._started_mono,
            commits=self._commits,
            engines=tuple(engines),
            batches=dict(by_status),
            queued_rows=reads.queued_rows(self._known),
            closed=DISK_FULL if self._disk_full else closed(self._state, self._policy),
            quiet=None if seen is None else seen.quiet,
            disk_free_bytes=None if seen is None else seen.disk_free_bytes,
            models=tuple(
                reads.model_view(
                    model,
                    tuple(engines),
                    faults[model].error if model in faults else None,
                    self._known,
                )
                for model in self._models
            ),
        )

    def _condition(self) -> str:
        if self._disk_full:
            return "disk_full"
        if self._state.draining:
            return "draining"
        if self._state.all_paused:
            return "paused"
        seen = self._state.surroundings
        return "quiet" if seen is not None and seen.quiet is not None else "serving"

    async def _on_ledger_thread(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._ledger_thread, call, *args)


def _now() -> Now:
    return Now(wall=time.time(), mono=time.monotonic())


def _exit_process(reason: str) -> NoReturn:
    """Ray starts the actor again, and it reloads what is remembered."""
    log.critical("the scheduler exits: %s", reason)
    logging.shutdown()
    os._exit(1)
