"""The scheduler's way out, through Ray: chores run in processes of theirs, engines are woken by name.

Commands may be lost: a chore that breaks is reported to the scheduler and started again, a wake-up that does
not arrive is made good by the engine's next report.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import ray

from raybatch.actors import chores
from raybatch.actors.chore_processes import ChoreProcesses
from raybatch.actors.cluster_facts import kill_engine, this_machine
from raybatch.actors.engine_names import serving
from raybatch.actors.read_ahead import ReadAhead, read_ahead
from raybatch.actors.scheduler_port import SchedulerPort
from raybatch.config import Home
from raybatch.core import chores as names
from raybatch.core import commands as cmd
from raybatch.core.events import ChoreBroke, Event
from raybatch.core.model import Batch
from raybatch.crash_points import crash_point
from raybatch.storage.blobs import BlobStore

NAMESPACE: Final = "raybatch"
REMOVAL_GRACE_S: Final = 120.0  #: readers of an older manifest may still stream the bytes
BROKEN_WAIT_S: Final = 1.0
AHEAD_KEPT_MAX: Final = 64  #: reports of files that no batch has asked for yet

log = logging.getLogger(__name__)


class RayGateway:
    """On the scheduler's event loop. ``batch_of`` looks up a remembered batch."""

    def __init__(self, home: Home, batch_of: Callable[[str], Batch | None]) -> None:
        self._home = home
        self._batch_of = batch_of
        self._processes = ChoreProcesses()
        self._readings: dict[str, asyncio.Task[ReadAhead | None]] = {}  #: by file id, until a batch claims it
        self._background: set[asyncio.Task[None]] = set()
        self._scheduler: SchedulerPort | None = None

    def serve(self, scheduler: SchedulerPort) -> None:
        """To whom chores report."""
        self._scheduler = scheduler

    def warm(self) -> None:
        """So that the next upload does not wait for a process to start."""
        self._processes.warm()

    def send(self, command: cmd.Command) -> None:
        match command:
            case cmd.StartReadAhead(file_id, path):
                self._read_ahead(file_id, path)
            case cmd.StartIntake(batch_id):
                batch = self._batch_of(batch_id)
                if batch is not None:  # else it was deleted in this very turn
                    self._spawn(self._take_in(batch))
            case cmd.StartClosing(_, code, leases, chore):
                self._start(chore, _closing, str(self._home.root), code, leases, chore)
            case cmd.StartCompaction(batch_id, parts):
                self._start(names.compaction(batch_id), _compaction, str(self._home.root), batch_id, parts)
            case cmd.WakeEngines(model):
                self._spawn(self._wake(model))
            case cmd.EndEngine(engine_id, pid, machine):
                self._spawn(self._end(engine_id, pid, machine))
            case cmd.RemoveBlob(file_id):
                self._readings.pop(file_id, None)
                BlobStore(self._home.files).remove(file_id)
            case cmd.RemoveParts(_, paths):
                self._remove_later(paths)
            case cmd.RemoveBatch(batch_id, paths):
                index = self._home.index_path(batch_id).relative_to(self._home.root)
                self._remove_later((*paths, str(index)))

    def _read_ahead(self, file_id: str, path: str) -> None:
        """One upload at a time; another one is read when its batch is asked for."""
        if all(reading.done() for reading in self._readings.values()):
            while len(self._readings) >= AHEAD_KEPT_MAX:
                del self._readings[next(iter(self._readings))]
            reading = self._processes.run_beside(_ahead, str(self._home.root), file_id, path)
            self._readings[file_id] = asyncio.get_running_loop().create_task(_or_none(reading))

    async def _take_in(self, batch: Batch) -> None:
        """The upload is whole: whoever reads ahead in it is about to end, and then its process is free."""
        reading = self._readings.pop(batch.input_file_id, None)
        ahead = None if reading is None else await reading
        await self._run(names.intake(batch.batch_id), _intake, (str(self._home.root), batch, ahead))

    def _start(self, chore: str, work: Callable[..., list[Event]], *args: Any) -> None:
        self._spawn(self._run(chore, work, args))

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _run(self, chore: str, work: Callable[..., list[Event]], args: tuple[Any, ...]) -> None:
        assert self._scheduler is not None
        try:
            events = await self._processes.run(work, *args)
            crash_point("chore.done")
            for event in events:
                await self._scheduler.ask(event)
            crash_point("chore.reported")
        except Exception as error:
            log.exception("%s broke", chore)
            await asyncio.sleep(BROKEN_WAIT_S)
            await self._scheduler.ask(ChoreBroke(chore, str(error)))

    async def _wake(self, model: str) -> None:
        for name in serving(self._home.load(), model):
            try:
                engine = ray.get_actor(name.engine_id, namespace=NAMESPACE)
            except ValueError:
                continue
            engine.wake.remote()

    async def _end(self, engine_id: str, pid: int, machine: str) -> None:
        """Ray starts it again. A process that does not even answer Ray is killed by its number."""
        here = machine == this_machine()
        if here and await asyncio.to_thread(kill_engine, self._home, pid):
            log.error("engine %s was silent for too long: process %d killed", engine_id, pid)
            return
        try:
            ray.kill(ray.get_actor(engine_id, namespace=NAMESPACE), no_restart=False)
        except ValueError:
            log.error("engine %s is gone, and Ray does not know it", engine_id)

    def _remove_later(self, paths: tuple[str, ...]) -> None:
        """What a restart forgets of it, the sweep finds."""
        asyncio.get_running_loop().call_later(REMOVAL_GRACE_S, self._remove, paths)

    def _remove(self, paths: tuple[str, ...]) -> None:
        for path in paths:
            (self._home.root / path).unlink(missing_ok=True)
            crash_point("parts.removing")


async def _or_none(reading: Awaitable[ReadAhead | None]) -> ReadAhead | None:
    """Nothing depends on it."""
    try:
        return await reading
    except Exception:
        log.exception("reading ahead broke")
        return None


def _ahead(home_root: str, file_id: str, path: str) -> ReadAhead | None:
    home = Home.find(home_root)
    return read_ahead(home, file_id, home.root / path)


def _intake(home_root: str, batch: Batch, ahead: ReadAhead | None) -> list[Event]:
    return [chores.intake(Home.find(home_root), batch, ahead)]


def _closing(home_root: str, code: str, leases: tuple[cmd.Lease, ...], chore: str) -> list[Event]:
    return list(chores.closing(Home.find(home_root), code, leases, chore))


def _compaction(home_root: str, batch_id: str, parts: tuple[Any, ...]) -> list[Event]:
    return [chores.compaction(Home.find(home_root), batch_id, parts)]
