"""A scheduler with its chores and engines in one event loop: the production classes, without Ray."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from raybatch.actors import chores
from raybatch.actors.engine_loop import EngineLoop
from raybatch.actors.gpu_guard import GpuGuard
from raybatch.actors.scheduler import Scheduler
from raybatch.config import EngineSettings, Home, ModelSettings, make_settings
from raybatch.core import commands as cmd
from raybatch.core.events import BatchAsked, FileStored
from raybatch.core.fitness import GpuLimits
from raybatch.core.model import TERMINAL, Batch, File
from raybatch.core.policy import Policy
from raybatch.engine.contract import Engine
from raybatch.engine.echo import EchoEngine
from raybatch.ledger.durable import DurableMemory
from raybatch.storage import exports
from raybatch.storage.blobs import BlobStore

MODEL = "echo"
QUICK = EngineSettings(kind="echo", flush_s=0.05, report_s=0.05, drain_s=5.0)


class LocalGateway:
    """Runs chores in threads of this process."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.scheduler: Scheduler | None = None
        self.sent: list[cmd.Command] = []
        self.engines: list[EngineLoop] = []
        self._background: set[asyncio.Task[None]] = set()

    def send(self, command: cmd.Command) -> None:
        assert self.scheduler is not None
        self.sent.append(command)
        match command:
            case cmd.StartIntake(batch_id):
                batch = self.scheduler.known_batch(batch_id)
                self._start(lambda: [chores.intake(self.home, batch)])
            case cmd.StartClosing(_, code, leases, chore):
                self._start(lambda: chores.closing(self.home, code, leases, chore))
            case cmd.StartCompaction(batch_id, parts):
                self._start(lambda: [chores.compaction(self.home, batch_id, parts)])
            case cmd.WakeEngines():
                for engine in self.engines:
                    engine.wake()

    def _start(self, chore: Callable[[], Any]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(chore))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _run(self, chore: Callable[[], Any]) -> None:
        assert self.scheduler is not None
        for event in await asyncio.to_thread(chore):
            await self.scheduler.ask(event)


@asynccontextmanager
async def scheduling(
    home: Home,
    policy: Policy | None = None,
    open_memory: Callable[[], DurableMemory] | None = None,
    models: tuple[str, ...] = (MODEL,),
) -> AsyncIterator[tuple[Scheduler, LocalGateway]]:
    """A running scheduler over ``home``; stopped, with its ledger closed, at the end."""
    home.make()
    home.save(make_settings("test", ("engine.kind=echo",), models=tuple(map(ModelSettings, models))))
    gateway = LocalGateway(home)
    scheduler = Scheduler(
        open_memory or (lambda: DurableMemory(home.ledger)), gateway, policy or Policy(), home.root
    )
    gateway.scheduler = scheduler
    running = asyncio.create_task(scheduler.run())
    ready = asyncio.create_task(scheduler.wait_ready())
    await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield scheduler, gateway
    finally:
        scheduler.stop()
        await running


@asynccontextmanager
async def engine_running(
    home: Home,
    gateway: LocalGateway,
    engine: Engine | None = None,
    engine_id: str = "engine-0-0",
    *,
    settings: EngineSettings = QUICK,
    guard: GpuGuard | None = None,
    models: tuple[str, ...] = (MODEL,),
) -> AsyncIterator[tuple[EngineLoop, asyncio.Task[str]]]:
    """An engine at work until the block ends; a slot when there are several models."""

    async def make(model: ModelSettings) -> Engine:
        return engine or EchoEngine()

    assert gateway.scheduler is not None
    known = tuple(ModelSettings(model) for model in models)
    guard = guard or GpuGuard(GpuLimits())
    loop = EngineLoop(make, gateway.scheduler, home, settings, engine_id, known, guard, slot=len(models) > 1)
    gateway.engines.append(loop)
    task = asyncio.create_task(loop.run())
    try:
        yield loop, task
    finally:
        loop.stop()
        await task
        gateway.engines.remove(loop)


def upload_of(rows: int, said: Callable[[int], str] = "row {}".format, model: str = MODEL) -> bytes:
    return "".join(
        json.dumps(
            {
                "custom_id": f"id-{i}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": model, "messages": [{"role": "user", "content": said(i)}]},
            }
        )
        + "\n"
        for i in range(rows)
    ).encode()


async def store(home: Home, scheduler: Scheduler, upload: bytes) -> File:
    file_id = f"file-{uuid.uuid4().hex[:24]}"
    with BlobStore(home.files).writer(file_id) as writer:
        writer.write(upload)
        size_bytes, sha256 = writer.commit()
    file = File(file_id, "default", "batch", "a.jsonl", size_bytes, 1.0, sha256)
    await scheduler.ask(FileStored(uuid.uuid4().hex, file))
    return file


async def create(scheduler: Scheduler, file: File) -> Batch:
    batch: Batch = await scheduler.ask(batch_asked(file.file_id))
    return batch


def batch_asked(file_id: str) -> BatchAsked:
    draw = uuid.uuid4().hex
    return BatchAsked(
        reply_to=draw,
        batch_id=f"batch_{draw}",
        tenant="default",
        input_file_id=file_id,
        output_file_id=f"file-{draw[:23]}o",
        error_file_id=f"file-{draw[:23]}e",
        endpoint="/v1/chat/completions",
        completion_window="24h",
        completion_window_s=86_400.0,
        metadata=None,
        priority=0,
        request_key=draw,
        idempotency_key=None,
        is_retry=False,
    )


async def until(scheduler: Scheduler, batch_id: str, reached: Callable[[Batch], bool]) -> Batch:
    """The batch once it is so. Looks at every event's turn; the suite's time limit is the only clock."""
    while True:
        batch: Batch = await scheduler.read("batch", "default", batch_id)
        if reached(batch):
            return batch
        await asyncio.sleep(0.01)


async def ended(scheduler: Scheduler, batch_id: str) -> Batch:
    return await until(scheduler, batch_id, lambda batch: batch.status in TERMINAL)


async def lines_of(
    home: Home, scheduler: Scheduler, batch_id: str, kind: exports.Kind
) -> list[dict[str, Any]]:
    rows = await scheduler.read("rows", "default", batch_id)
    content = b"".join(exports.jsonl(home.root, rows.visible(), kind))
    return [json.loads(line) for line in content.splitlines()]
