"""Uploads and batches on a disk whose power fails, and in a scheduler that is killed, at any labelled step.

The production scheduler, journal, upload store and sweep over ``Disk``; a ledger in memory that at times
forgets its last commit. One seed is one history of several lives. Whatever was answered must be there in each
later life, with all its bytes, and a sweep takes what nobody asked for and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any, Final, NoReturn
from unittest.mock import patch

from raybatch import crash_points
from raybatch.actors import scheduler as scheduling
from raybatch.actors import sweep as sweeping
from raybatch.config import Home
from raybatch.core import events as e
from raybatch.core.commands import Command, RemoveBlob
from raybatch.core.model import File
from raybatch.core.policy import Policy
from raybatch.core.state import Image, State
from raybatch.errors import RaybatchError
from raybatch.ledger import durable
from raybatch.ledger.contract import SCHEMA_VERSION
from raybatch.ledger.memory import MemoryLedger
from raybatch.storage.blobs import BlobStore
from tests.simulation.disk import Disk, Files

LIVES: Final = 4
ROUNDS: Final = 6  #: of requests in one life
PASSINGS_MAX: Final = (5, 20, 60)  #: of labelled steps before a life ends; one of these is drawn
DAYS_LATER_S: Final = 3 * 86_400.0


class PowerBroken(AssertionError):
    """Something that was answered is not there, or the other way round."""


class _Death(BaseException):
    """Nothing may catch it, as nothing catches SIGKILL."""


def live_through_cuts(seed: int, told: list[str] | None = None) -> None:
    """A whole history of several lives. Raises PowerBroken, naming the seed."""
    with tempfile.TemporaryDirectory(prefix="power-", dir=_quick_directory()) as directory:
        history = _History(seed, Path(directory).resolve(), [] if told is None else told)
        try:
            history.play()
        except Exception as error:
            shown = str(error) if isinstance(error, AssertionError) and str(error) else repr(error)
            raise PowerBroken(f"power seed {seed}: safety: {shown}") from error


class ForgetfulLedger(MemoryLedger):
    """Stands where DuckDB's file does, durable at each commit; can be made to lose the last one."""

    version = SCHEMA_VERSION

    def __init__(self) -> None:
        super().__init__()
        self._before: tuple[int, dict[Any, Image]] = (0, {})

    @property
    def seq(self) -> int:
        return self._seq

    def commit(self, seq: int, images: tuple[Image, ...]) -> None:
        if seq > self._seq:
            self._before = self._seq, dict(self._images)
        super().commit(seq, images)

    def forget_last(self) -> None:
        self._seq, self._images = self._before[0], dict(self._before[1])


class _Memory(durable.DurableMemory):
    """A start that is refused ends the history instead of being tried again."""

    def load(self) -> State:
        try:
            return super().load()
        except RaybatchError as error:
            raise _Refused(error.message) from error


class _Refused(BaseException):
    pass


class _History:
    def __init__(self, seed: int, directory: Path, told: list[str]) -> None:
        self.rng = Random(seed)
        self.told = told
        self.ledger = ForgetfulLedger()
        self.uploads: dict[str, bytes] = {}  #: all that were ever sent
        self.answered: dict[str, str] = {}  #: by id, "file" or "batch": what a client was told is there
        self.gone: set[str] = set()  #: files whose deletion was asked for; in ``answered`` no more
        self.deleted: set[str] = set()  #: those whose deletion was answered
        self.left: Files | None = None  #: on the disk, after a cut
        self._directory = directory
        self._drawn = 0
        self._passings_left = 0
        self._dead = False
        self._memory: durable.DurableMemory | None = None

    def play(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(patch.object(durable, "DuckDBLedger", lambda path: self.ledger))
            stack.enter_context(patch.object(durable, "RESERVE_BYTES", 1))
            stack.enter_context(patch.object(scheduling, "TICK_S", 1e12))  # its turns come of requests alone
            stack.enter_context(patch.object(crash_points, "_directory", Path()))
            stack.enter_context(patch.object(crash_points, "_pass", self._pass))
            self.left = {}
            for life in range(LIVES):
                if self.left is not None:
                    self._put_on_a_disk(self.left, stack)
                self._live_once(last=life == LIVES - 1)

    def _put_on_a_disk(self, left: Files, stack: ExitStack) -> None:
        self.home, self.left = Home(self._directory / f"home-{self._draw()}"), None
        self.home.make()
        for path, content in left.items():
            (self.home.root / path).parent.mkdir(exist_ok=True)
            (self.home.root / path).write_bytes(content)
        self.disk = Disk(self.home.root, self.rng)
        stack.enter_context(self.disk.watched())
        self.disk.holds()

    def _live_once(self, *, last: bool) -> None:
        """From a start to a death; the last life ends in peace."""
        self._passings_left = 10**9 if last else self.rng.randint(1, self.rng.choice(PASSINGS_MAX))
        self._dead = False
        try:
            asyncio.run(self._live())
        except _Refused as refused:
            raise AssertionError(f"the next start is refused: {refused}") from refused
        except _Death:
            pass
        finally:
            if self._memory is not None:
                self._memory.close()

    # -- one life ------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # several may die at once
        scheduler = scheduling.Scheduler(self._open, self, Policy(), self.home.root, die=_die)
        running = asyncio.create_task(scheduler.run())
        asking = asyncio.create_task(self._ask_on(scheduler))
        await asyncio.wait({running, asking}, return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            scheduler.stop()
            await asking
            await scheduler.ask(e.Tick())  # so that the loop looks
            await running
        asking.cancel()
        await running

    def _open(self) -> durable.DurableMemory:
        self._memory = _Memory(self.home.ledger)
        return self._memory

    async def _ask_on(self, scheduler: scheduling.Scheduler) -> None:
        await scheduler.wait_ready()
        self._check(scheduler)
        for file_id in [one for one in self.uploads if one not in self.answered and one not in self.gone]:
            self._write(file_id)  # its client had no answer and asks again
            await self._tell(scheduler, file_id)
        for _ in range(ROUNDS):
            fresh = [self._new_upload() for _ in range(self.rng.randint(1, 3))]
            for file_id in fresh:
                self._write(file_id)
            sweeping.sweep(self.home, sweeping.kept(scheduler.known()), time.time() + 60.0)
            await asyncio.gather(*(self._tell(scheduler, file_id) for file_id in fresh))
            if self.rng.random() < 0.5:
                await self._create(scheduler, self.rng.choice(fresh))
            if self.rng.random() < 0.3:
                await self._delete(scheduler, self.rng.choice(fresh))
        sweeping.sweep(self.home, sweeping.kept(scheduler.known()), time.time() + DAYS_LATER_S)
        self._check(scheduler)
        self._check_swept(scheduler)

    def _write(self, file_id: str) -> None:
        """Also again: what an upload that was cut off left is never relied on."""
        with BlobStore(self.home.files).writer(file_id) as writer:
            writer.write(self.uploads[file_id])
            writer.commit()

    async def _tell(self, scheduler: scheduling.Scheduler, file_id: str) -> None:
        size_bytes = len(self.uploads[file_id])
        await scheduler.ask(e.FileStored("r", File(file_id, "t", "batch", "in.jsonl", size_bytes, 1.0)))
        self._hear(file_id, "file")

    async def _create(self, scheduler: scheduling.Scheduler, file_id: str) -> None:
        number = self._draw()
        names = (f"batch-{number}", "t", file_id, f"file-o{number}", f"file-e{number}")
        rest = ("/v1/embeddings", "24h", 86_400.0, None, 0, "r", None, False)
        await scheduler.ask(e.BatchAsked("r", *names, *rest))
        self._hear(names[0], "batch")

    async def _delete(self, scheduler: scheduling.Scheduler, file_id: str) -> None:
        self.gone.add(file_id)
        self.answered.pop(file_id, None)
        await scheduler.ask(e.FileDeletionAsked("r", "t", file_id))
        if not self._dead:
            self.deleted.add(file_id)
            self.told.append(f"the deletion of {file_id} is answered")

    def send(self, command: Command) -> None:
        """As the scheduler's gateway."""
        if isinstance(command, RemoveBlob) and not self._dead:
            BlobStore(self.home.files).remove(command.file_id)

    def _hear(self, what: str, kind: str) -> None:
        if not self._dead:
            self.answered[what] = kind
            self.told.append(f"{what} is answered")

    # -- its end -------------------------------------------------------------------------------------------

    def _pass(self, armed: Path) -> None:
        if self._dead:
            raise _Death  # what else this process had begun ends, too
        self._passings_left -= 1
        if self._passings_left > 0:
            return
        self._dead = True
        if self.rng.random() < 0.6:
            self.left = self.disk.cut()
            self.told.append(f"the power fails at {armed.name}")
        else:
            self.told.append(f"the process is killed at {armed.name}")
            self._forget()
        raise _Death

    def _forget(self) -> None:
        """What the kernel holds stays, fsynced or not; the ledger may have lost its last commit."""
        if self.rng.random() < 0.3:
            self.ledger.forget_last()
            self.told.append("the ledger has lost its last commit")

    # -- what must hold ------------------------------------------------------------------------------------

    def _check(self, scheduler: scheduling.Scheduler) -> None:
        known = scheduler.known()
        for what, kind in self.answered.items():
            assert what in (known.files if kind == "file" else known.batches), (
                f"{what} was answered and is gone"
            )
            assert kind != "file" or self._whole(what), (
                f"{what} was answered, and its bytes are not all there"
            )
        for batch in known.batches.values():
            if batch.input_file_id in known.files:
                assert self._whole(batch.input_file_id), f"the upload of {batch.batch_id} is gone"
        for file_id in self.deleted:
            assert file_id not in known.files or known.files[file_id].deleted, f"{file_id} is back"
        strangers = known.files.keys() - self.uploads.keys()
        assert not strangers, f"nobody ever sent {sorted(strangers)}"

    def _check_swept(self, scheduler: scheduling.Scheduler) -> None:
        named = sweeping.kept(scheduler.known()).file_ids & self.uploads.keys()
        there = set(os.listdir(self.home.files))
        assert there == named, (
            f"after a sweep {sorted(there ^ named)} are there and unknown, or known and gone"
        )

    def _whole(self, file_id: str) -> bool:
        path = BlobStore(self.home.files).path(file_id)
        return path.exists() and path.read_bytes() == self.uploads[file_id]

    def _new_upload(self) -> str:
        file_id = f"file-{self._draw()}"
        self.uploads[file_id] = self.rng.randbytes(self.rng.randint(1, 50))
        return file_id

    def _draw(self) -> int:
        self._drawn += 1
        return self._drawn


def _die(reason: str) -> NoReturn:
    raise AssertionError(f"the scheduler gave up: {reason}")


def _quick_directory() -> str | None:
    """Memory where there is some: a thousand histories write a hundred thousand files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
