"""Finished rows on their way to being results: gathered, written as a part, seen through to a verdict.

Knows nothing of engines: it takes finished rows from a RowWindow, batch by batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from typing import Final

from raybatch.actors.held_lease import slice_of
from raybatch.actors.metrics import observe
from raybatch.actors.row_window import RowWindow
from raybatch.actors.scheduler_port import SchedulerPort
from raybatch.config import EngineSettings, Home
from raybatch.core.commands import Verdict
from raybatch.core.events import PartWritten
from raybatch.core.model import PartFile, ResultRow
from raybatch.crash_points import crash_point
from raybatch.errors import NotFound, RaybatchError
from raybatch.storage import parts

ASK_AGAIN_S: Final = 0.5
COALESCE_S: Final = 0.02  #: rows finish in crowds: look at them together

log = logging.getLogger(__name__)


class PartCommits:
    def __init__(
        self,
        window: RowWindow,
        scheduler: SchedulerPort,
        home: Home,
        settings: EngineSettings,
        engine_id: str,
        settled: Callable[[], None],
    ) -> None:
        """``settled``: called when a part has its verdict."""
        self._window = window
        self._scheduler = scheduler
        self._home = home
        self._settings = settings
        self._engine_id = engine_id
        self._settled = settled
        self._finished = asyncio.Event()
        self._committing = asyncio.Lock()

    def row_finished(self) -> None:
        self._finished.set()

    async def keep_committing(self) -> None:
        """For ever: as many rows as make a part, or what there is after ``flush_s``."""
        first_mono: dict[str, float] = {}  #: by batch: when its oldest uncommitted row was seen
        wait_s: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._finished.wait()
            self._finished.clear()
            for batch_id in self._batches():
                seen_mono = first_mono.setdefault(batch_id, time.monotonic())
                overdue = time.monotonic() - seen_mono >= self._settings.flush_s
                if overdue or self._due_now(batch_id):
                    await self._commit(batch_id)
                    del first_mono[batch_id]
            wait_s = self._settings.flush_s if first_mono else None
            await asyncio.sleep(COALESCE_S)

    async def commit_everything(self) -> None:
        async with self._committing:  # what is under way is seen through
            pass
        while batches := self._batches():
            for batch_id in batches:
                await self._commit(batch_id)

    def _batches(self) -> list[str]:
        held = self._window.held.values()
        return list(dict.fromkeys(one.lease.batch_id for one in held if one.finished))

    def _due_now(self, batch_id: str) -> bool:
        """Enough rows, or nothing more is coming: no stall at the end of a batch."""
        mine = [held for held in self._window.held.values() if held.lease.batch_id == batch_id]
        rows = sum(len(held.finished) for held in mine)
        return rows >= self._settings.flush_rows or all(held.idle for held in mine)

    async def _commit(self, batch_id: str) -> None:
        """Write one part of a batch's finished rows and see it through to the scheduler's verdict."""
        async with self._committing:
            await self._commit_part(batch_id)

    async def _commit_part(self, batch_id: str) -> None:
        taken = self._window.take_finished(batch_id)
        if not taken:
            return
        leases = {chunk_id: self._window.held[chunk_id].lease for chunk_id in taken}
        rows = [row for chunk_rows in taken.values() for row in chunk_rows]
        slices = tuple(slice_of(leases[chunk_id], chunk_rows) for chunk_id, chunk_rows in taken.items())
        part = await self._write(batch_id, rows)
        crash_point("part.kept")
        kept_mono = time.monotonic()
        while True:
            written = PartWritten(uuid.uuid4().hex, self._engine_id, batch_id, part, slices)
            try:
                verdicts = await self._scheduler.ask(written)
                break
            except NotFound:
                part = await self._write(batch_id, rows)
            except RaybatchError as refusal:
                log.debug("no verdict on part %s yet: %s", part.part_id, refusal.message)
                await asyncio.sleep(ASK_AGAIN_S)
        took_s = time.monotonic() - kept_mono
        observe("raybatch_commit_duration_seconds", took_s, engine=self._engine_id)
        if all(verdict is Verdict.STALE for verdict in verdicts):
            await asyncio.to_thread(parts.remove, self._home.root, part)
        crash_point("part.judged")
        for chunk_id, chunk_rows in taken.items():
            self._window.settle(chunk_id, len(chunk_rows))
        self._settled()

    async def _write(self, batch_id: str, rows: list[ResultRow]) -> PartFile:
        began_mono = time.monotonic()
        while True:
            try:
                part = await asyncio.to_thread(
                    parts.write_part, self._home.root, batch_id, f"part-{uuid.uuid4().hex}", rows
                )
                took_s = time.monotonic() - began_mono
                observe("raybatch_flush_duration_seconds", took_s, engine=self._engine_id)
                return part
            except OSError as error:
                log.error("a part of %s cannot be written, trying again: %s", batch_id, error)
                await asyncio.sleep(ASK_AGAIN_S)
