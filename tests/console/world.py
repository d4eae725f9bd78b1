"""A raybatch in one thread: the real app over HTTP, real decisions and files, the echo engine's answers.

For tests of the console, which should not wait for Ray, and for its pictures. It runs whatever is submitted
to it at a pace of its own; ``tests/console/test_browser.py`` has one story on a real cluster, too.
"""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import msgspec
import uvicorn

from raybatch.actors import reads
from raybatch.config import Home, Settings
from raybatch.core import events as e
from raybatch.core.estimate import Estimate
from raybatch.core.fitness import GpuReading
from raybatch.core.model import Batch, BatchStatus, ResultRow
from raybatch.engine.echo_answers import answer
from raybatch.wire.result_line import Origin, answered_row
from serve_app.app import build_app
from tests.serve_app.local_scheduler import LocalScheduler

STEP_S: Final = 0.1
CHAT: Final = "/v1/chat/completions"
OTHER_WORDS: Final = (b"bread", b"fresh bread")
GIB: Final = 1 << 30
GPU: Final = GpuReading(
    0, "GPU-0", "NVIDIA GeForce RTX 4080", 16 * GIB, 14 * GIB, GIB // 2, 67, 218.0, 320.0, 0.94
)


class World(LocalScheduler):
    """Takes in what is asked, runs ``rows_a_step`` rows in every step for any model, and has one GPU."""

    def __init__(self, home: Home, settings: Settings, rows_a_step: int = 40) -> None:
        super().__init__(home, settings)
        self.url = ""
        self.rows_a_step = rows_a_step
        self._failures: Counter[str] = Counter()
        self._steps = 0

    async def read(self, what: str, *args: Any) -> Any:
        found = await super().read(what, *args)
        if what == "view":
            return self._view(found.batch)
        if what == "views":
            return reads.Page(tuple(self._view(view.batch) for view in found.items), found.has_more)
        return found

    def step(self) -> None:
        self._steps += 1
        self.set_clock(time.time())
        self.run_chores()
        self.run_rows(self.rows_a_step)

    @property
    def _rows_per_s(self) -> float:
        return (
            self.rows_a_step
            / STEP_S
            * (1 + 0.08 * math.sin(self._steps / 9) + 0.04 * math.sin(self._steps / 2.3))
        )

    def _view(self, batch: Batch) -> reads.BatchView:
        runs = batch.status is BatchStatus.IN_PROGRESS and batch.paused_at is None
        left_s = (batch.total - batch.finished_rows) / (self.rows_a_step / STEP_S)
        pace = self._rows_per_s if runs else 0.0
        return reads.BatchView(batch, pace, pace * 11, Estimate(left_s, left_s * 1.3) if runs else None)

    def _tell(self, event: e.Event) -> Any:
        if isinstance(event, e.EngineReport):
            busy = any(batch.status is BatchStatus.IN_PROGRESS for batch in self.batches())
            pace = self._rows_per_s if busy else 0.0
            window = 64 if busy else 0
            event = replace(
                event,
                models=tuple(name for model in self.settings.models for name in model.names),
                rows_per_s=pace,
                tokens_per_s=pace * 11,
                running=window,
                window=64,
                gpus=(GPU,),
                kv_cache_usage=0.4,
            )
        return super()._tell(event)

    def _answered(self, origin: Origin, body: bytes) -> ResultRow:
        if msgspec.json.decode(body)["model"] != self.settings.models[0].id:
            body = body.replace(*OTHER_WORDS)  # an echo alone would make all models say the same
        said = answer(CHAT, body, f"chatcmpl-{origin.index}", self._failures)
        now = time.time()
        origin = replace(origin, started_at=now - 0.4 - 0.3 * math.sin(origin.index) ** 2, finished_at=now)
        ids = {"row_id": f"batch_req_{origin.index}", "request_id": f"req_{origin.index}"}
        return answered_row(origin, said.status, said.body, **ids)


@contextmanager
def serving(home: Home, settings: Settings, rows_a_step: int = 40) -> Iterator[World]:
    """One that runs and is answered under its ``url`` until the block ends."""
    home.make()
    world = World(home, settings, rows_a_step)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        world.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(build_app(home, settings, world), log_level="warning", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=lambda: asyncio.run(_serve(server, world, listening)))
        thread.start()
        try:
            yield world
        finally:
            server.should_exit = True
            thread.join()


async def _serve(server: uvicorn.Server, world: World, listening: socket.socket) -> None:
    """The steps run between requests, in the same thread: nothing of the world is ever half changed."""

    async def steps() -> None:
        while True:
            world.step()
            await asyncio.sleep(STEP_S)

    running = asyncio.create_task(steps())
    await server.serve(sockets=[listening])
    running.cancel()
