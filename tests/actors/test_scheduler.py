"""The scheduler's loop: remembered before said, and what happens when remembering fails."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from raybatch.actors.scheduler import Scheduler
from raybatch.config import Home
from raybatch.core.events import CancelAsked
from raybatch.core.model import File
from raybatch.core.policy import Policy
from raybatch.errors import NotFound, Unavailable
from raybatch.ledger.durable import DurableMemory
from tests.actors.local import (
    LocalGateway,
    batch_asked,
    create,
    ended,
    engine_running,
    scheduling,
    store,
    upload_of,
)


class HeldMemory(DurableMemory):
    """Commits wait until they are let go."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.go = threading.Event()
        self.go.set()
        self.waiting = threading.Event()

    def remember(self, *args: Any) -> None:
        self.waiting.set()
        self.go.wait()
        super().remember(*args)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def test_nobody_hears_of_what_is_not_remembered_yet(home: Home) -> None:
    home.make()
    memory = HeldMemory(home.ledger)
    async with scheduling(home, open_memory=lambda: memory) as (scheduler, _):
        memory.go.clear()
        memory.waiting.clear()
        asked = batch_asked("file-unknown")
        answer = asyncio.create_task(scheduler.ask(asked))
        await asyncio.to_thread(memory.waiting.wait)

        assert not answer.done()
        with pytest.raises(NotFound):  # and reads answer at once, from the last commit
            await scheduler.read("batch", "default", asked.batch_id)

        memory.go.set()
        assert (await answer).batch_id == asked.batch_id
        assert (await scheduler.read("batch", "default", asked.batch_id)).status == "failed"


async def test_what_was_answered_is_there_after_a_restart(home: Home) -> None:
    async with scheduling(home) as (scheduler, gateway), engine_running(home, gateway):
        batch = await create(scheduler, await store(home, scheduler, upload_of(50)))
        batch = await ended(scheduler, batch.batch_id)

    async with scheduling(home) as (scheduler, _):
        assert await scheduler.read("batch", "default", batch.batch_id) == batch
        output: File = await scheduler.read("file", "default", batch.output_file_id)
        assert output.size_bytes == batch.tally.output_bytes


async def test_a_full_disk_pauses_the_scheduler_and_loses_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    async with scheduling(home) as (scheduler, gateway), engine_running(home, gateway):
        file = await store(home, scheduler, upload_of(100))
        full.set()
        answer = asyncio.create_task(create(scheduler, file))
        while (await scheduler.read("overview")).state != "disk_full":
            await asyncio.sleep(0.01)
        assert not answer.done()

        full.clear()
        batch = await ended(scheduler, (await answer).batch_id)
        assert (batch.status, batch.tally.completed) == ("completed", 100)
        assert (await scheduler.read("overview")).state == "serving"


async def test_a_second_scheduler_on_the_same_home_is_refused_with_the_reason(home: Home) -> None:
    in_use = (
        "import sys; from pathlib import Path; from raybatch.ledger.durable import DurableMemory;"
        "held = DurableMemory(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    home.make()
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", in_use, str(home.ledger)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert other.stdout is not None
    assert await other.stdout.readline() == b"open\n"
    try:
        await _refused_until_free(home, other)
    finally:
        assert other.stdin is not None
        other.stdin.close()
        await other.wait()


async def _refused_until_free(home: Home, other: asyncio.subprocess.Process) -> None:
    gateway = LocalGateway(home)
    scheduler = Scheduler(lambda: DurableMemory(home.ledger), gateway, Policy(), home.root)
    gateway.scheduler = scheduler
    running = asyncio.create_task(scheduler.run())
    while True:
        with pytest.raises(Unavailable) as refused:
            await scheduler.read("overview")
        if "open in another process" in refused.value.message:
            break
        await asyncio.sleep(0.01)
    assert other.stdin is not None
    other.stdin.close()
    await scheduler.wait_ready()
    scheduler.stop()
    await running


async def test_an_unknown_id_is_refused_as_a_value_and_the_loop_goes_on(home: Home) -> None:
    async with scheduling(home) as (scheduler, _):
        with pytest.raises(NotFound, match="No batch found with id 'batch_x'"):
            await scheduler.ask(CancelAsked(uuid.uuid4().hex, "default", "batch_x"))
        assert (await scheduler.read("overview")).state == "serving"


async def test_an_event_that_breaks_the_decision_is_answered_and_the_loop_goes_on(home: Home) -> None:
    async with scheduling(home) as (scheduler, _):
        with pytest.raises(TypeError, match="unhashable"):
            await scheduler.ask(CancelAsked("r", "default", []))  # type: ignore[arg-type]
        assert (await scheduler.read("overview")).state == "serving"
