"""An engine's life against the production scheduler, on one event loop: rows in, parts out, nothing twice."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raybatch.actors import engine_loop
from raybatch.actors.gpu_guard import GpuGuard
from raybatch.actors.scheduler import Scheduler
from raybatch.config import Home
from raybatch.core.events import CancelAsked, DrainAsked, EnginePhase, EngineReport, Event, PauseAsked
from raybatch.core.fitness import GpuLimits, GpuReading, judge
from raybatch.core.model import Batch, BatchStatus
from raybatch.core.policy import Policy
from raybatch.engine.contract import EngineReply
from raybatch.engine.echo import EchoEngine, EchoSettings
from raybatch.errors import Unavailable
from tests.actors.local import (
    QUICK,
    LocalGateway,
    create,
    ended,
    engine_running,
    lines_of,
    scheduling,
    store,
    until,
    upload_of,
)

SLOW = EchoSettings(alpha_ms=10.0, concurrency=32)  #: some 800 rows a second, on any machine


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def test_every_row_is_answered_once_in_input_order(home: Home) -> None:
    async with scheduling(home) as (scheduler, gateway), engine_running(home, gateway):
        batch = await create(scheduler, await store(home, scheduler, upload_of(1_000)))
        batch = await ended(scheduler, batch.batch_id)

        assert (batch.status, batch.tally.completed, batch.tally.failed) == ("completed", 1_000, 0)
        output = await lines_of(home, scheduler, batch.batch_id, "output")
        assert [line["custom_id"] for line in output] == [f"id-{i}" for i in range(1_000)]
        said = [line["response"]["body"]["choices"][0]["message"]["content"] for line in output]
        assert said == [f"echo: row {i}" for i in range(1_000)]


class Noting(EchoEngine):
    """Notes the requests as they enter."""

    def __init__(self, settings: EchoSettings) -> None:
        super().__init__(settings)
        self.entered: list[bytes] = []

    async def generate(self, url: str, body: bytes, request_id: str) -> EngineReply:
        self.entered.append(body)
        return await super().generate(url, body, request_id)


async def test_the_last_rows_enter_the_longest_first_by_what_the_others_answered(home: Home) -> None:
    """Long answers come of long questions here, and the file ends with them."""
    long = " word" * 60
    upload = upload_of(400, lambda i: f"row {i}{long}" if i % 10 == 0 or i >= 380 else f"row {i}")
    engine = Noting(SLOW)
    async with scheduling(home) as (scheduler, gateway), engine_running(home, gateway, engine):
        batch = await create(scheduler, await store(home, scheduler, upload))
        batch = await ended(scheduler, batch.batch_id)

        assert batch.tally.completed == 400
        assert not any(long.encode() in body for body in engine.entered[-20:])
        output = await lines_of(home, scheduler, batch.batch_id, "output")
        assert [line["custom_id"] for line in output] == [f"id-{i}" for i in range(400)]


async def test_an_engine_serves_though_the_end_of_its_last_report_while_loading_was_lost(home: Home) -> None:
    """A cancellation that meets an answer may be swallowed: an engine was left ready and idle for ever."""
    async with scheduling(home) as (scheduler, gateway):
        answer, lost = scheduler.ask, asyncio.Event()

        async def ask(event: Event) -> Any:
            beside = isinstance(event, EngineReport) and event.seq > 1
            loading = beside and event.phase is EnginePhase.LOADING
            if loading and not lost.is_set():
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    lost.set()
                    raise Unavailable("on its way", retry_after_s=1) from None
            return await answer(event)

        scheduler.ask = ask  # type: ignore[method-assign]
        async with engine_running(home, gateway, EchoEngine(EchoSettings(startup_s=0.3))):
            batch = await create(scheduler, await store(home, scheduler, upload_of(20)))
            assert (await ended(scheduler, batch.batch_id)).tally.completed == 20
        assert lost.is_set()


async def test_rows_the_engine_refuses_go_to_the_error_file_and_harm_no_other(home: Home) -> None:
    upload = upload_of(200, lambda i: "[[status=400]]" if i % 50 == 7 else f"row {i}")
    async with scheduling(home) as (scheduler, gateway), engine_running(home, gateway):
        batch = await create(scheduler, await store(home, scheduler, upload))
        batch = await ended(scheduler, batch.batch_id)

        assert (batch.status, batch.tally.completed, batch.tally.failed) == ("completed", 196, 4)
        errors = await lines_of(home, scheduler, batch.batch_id, "error")
        assert [line["custom_id"] for line in errors] == ["id-7", "id-57", "id-107", "id-157"]
        assert {line["response"]["status_code"] for line in errors} == {400}


async def test_an_answer_that_asks_to_try_again_is_tried_again(home: Home) -> None:
    upload = upload_of(20, lambda i: "[[status=503 times=1]] once" if i == 3 else f"row {i}")
    async with scheduling(home) as (scheduler, gateway), engine_running(home, gateway):
        batch = await create(scheduler, await store(home, scheduler, upload))
        batch = await ended(scheduler, batch.batch_id)

        assert (batch.tally.completed, batch.tally.failed) == (20, 0)


async def test_a_dead_engine_commits_what_it_finished_and_the_next_one_does_the_rest(home: Home) -> None:
    async with scheduling(home) as (scheduler, gateway):
        batch = await create(scheduler, await store(home, scheduler, upload_of(600)))
        engine = EchoEngine(SLOW)
        async with engine_running(home, gateway, engine) as (_, task):
            await until(scheduler, batch.batch_id, lambda batch: batch.finished_rows > 60)
            os.kill(engine.child_pids()[0], signal.SIGKILL)
            assert await task == "the engine died"
        at_death = (await scheduler.read("batch", "default", batch.batch_id)).finished_rows
        assert 60 < at_death < 600

        async with engine_running(home, gateway):
            batch = await ended(scheduler, batch.batch_id)
        assert (batch.tally.completed, batch.tally.failed) == (600, 0)
        output = await lines_of(home, scheduler, batch.batch_id, "output")
        assert [line["custom_id"] for line in output] == [f"id-{i}" for i in range(600)]


async def test_the_death_of_an_idle_engine_is_noticed_before_it_is_given_rows(home: Home) -> None:
    async with scheduling(home) as (scheduler, gateway):
        engine = EchoEngine()
        async with engine_running(home, gateway, engine) as (_, task):
            while not any(view.phase == "ready" for view in (await scheduler.read("overview")).engines):
                await asyncio.sleep(0.01)
            os.kill(engine.child_pids()[0], signal.SIGKILL)
            assert await task == "the engine died"


async def test_a_drained_engine_commits_finished_rows_and_gives_the_rest_back(home: Home) -> None:
    async with scheduling(home) as (scheduler, gateway):
        batch = await create(scheduler, await store(home, scheduler, upload_of(600)))
        async with engine_running(home, gateway, EchoEngine(SLOW)):
            await until(scheduler, batch.batch_id, lambda batch: batch.finished_rows > 60)
            await scheduler.ask(DrainAsked(uuid.uuid4().hex, on=True))
            while any(engine.held_rows for engine in (await scheduler.read("overview")).engines):
                await asyncio.sleep(0.01)
        drained = await scheduler.read("batch", "default", batch.batch_id)
        assert 60 < drained.finished_rows < 600

    async with scheduling(home) as (scheduler, gateway), engine_running(home, gateway):
        batch = await ended(scheduler, batch.batch_id)
        assert (batch.status, batch.tally.completed) == ("completed", 600)


async def test_cancel_keeps_finished_rows_and_writes_the_rest_as_cancelled(home: Home) -> None:
    async with scheduling(home) as (scheduler, gateway):
        batch = await create(scheduler, await store(home, scheduler, upload_of(5_000)))
        async with engine_running(home, gateway, EchoEngine(SLOW)):
            await until(scheduler, batch.batch_id, lambda batch: batch.finished_rows > 60)
            cancelling = await scheduler.ask(CancelAsked(uuid.uuid4().hex, "default", batch.batch_id))
            assert cancelling.status is BatchStatus.CANCELLING
            batch = await ended(scheduler, batch.batch_id)

        assert batch.status is BatchStatus.CANCELLED
        assert batch.tally.completed > 60
        assert batch.tally.completed + batch.tally.failed == 5_000
        output = await lines_of(home, scheduler, batch.batch_id, "output")
        errors = await lines_of(home, scheduler, batch.batch_id, "error")
        assert len(output) == batch.tally.completed
        assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
        ids = {line["custom_id"] for line in (*output, *errors)}
        assert ids == {f"id-{i}" for i in range(5_000)}


async def test_two_engines_share_a_batch_without_doing_a_row_twice(home: Home) -> None:
    async with scheduling(home) as (scheduler, gateway):
        batch = await create(scheduler, await store(home, scheduler, upload_of(900)))
        async with (
            engine_running(home, gateway, EchoEngine(SLOW), "engine-0-0"),
            engine_running(home, gateway, EchoEngine(SLOW), "engine-0-1"),
        ):
            batch = await ended(scheduler, batch.batch_id)
        rows = await scheduler.read("rows", "default", batch.batch_id)
        assert sum(part.rows for part in rows.parts) == batch.tally.completed == 900


async def test_an_engine_that_stands_still_is_given_up_and_its_rows_run_elsewhere(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_loop, "LOOK_S", 0.1)  # a hang is many times as long as what was seen to move
    async with scheduling(home) as (scheduler, gateway):
        batch = await create(scheduler, await store(home, scheduler, upload_of(600)))
        engine = EchoEngine(SLOW)
        watchful = replace(QUICK, hang_s=1.0)
        async with engine_running(home, gateway, engine, settings=watchful) as (_, task):
            await until(scheduler, batch.batch_id, lambda batch: batch.finished_rows > 60)
            os.kill(engine.child_pids()[0], signal.SIGSTOP)
            assert (await task).startswith("it hangs: ")
        (view,) = (await scheduler.read("overview")).engines
        assert (view.phase, view.held_rows) == ("died", 0)

        async with engine_running(home, gateway):
            batch = await ended(scheduler, batch.batch_id)
        assert (batch.tally.completed, batch.tally.failed) == (600, 0)


async def test_a_paused_batch_finishes_what_runs_and_no_more_until_it_is_resumed(home: Home) -> None:
    async with scheduling(home) as (scheduler, gateway), engine_running(home, gateway, EchoEngine(SLOW)):
        batch = await create(scheduler, await store(home, scheduler, upload_of(900)))
        await until(scheduler, batch.batch_id, lambda batch: batch.finished_rows > 60)
        paused = await scheduler.ask(PauseAsked("p", "default", batch.batch_id, True))
        assert paused.paused_at is not None
        while any(engine.held_rows for engine in (await scheduler.read("overview")).engines):
            await asyncio.sleep(0.01)
        rested = await scheduler.read("batch", "default", batch.batch_id)
        assert 60 < rested.finished_rows < 900

        other = await create(scheduler, await store(home, scheduler, upload_of(50)))
        assert (await ended(scheduler, other.batch_id)).tally.completed == 50
        assert await scheduler.read("batch", "default", batch.batch_id) == rested

        await scheduler.ask(PauseAsked("r", "default", batch.batch_id, False))
        batch = await ended(scheduler, batch.batch_id)
        assert (batch.status, batch.tally.completed) == ("completed", 900)


async def test_a_slot_serves_models_in_turns_and_each_batch_by_its_own(home: Home) -> None:
    models = ("echo", "other")
    lives = []
    async with scheduling(home, models=models) as (scheduler, gateway):
        batches = [
            await create(scheduler, await store(home, scheduler, upload_of(200, model=model)))
            for model in ("echo", "other", "echo")
        ]
        while len([b for b in batches if (await scheduler.read("batch", "default", b.batch_id)).active]) > 0:
            async with engine_running(home, gateway, EchoEngine(), "slot", models=models) as (loop, task):
                gone = asyncio.ensure_future(everyone_ended(scheduler, batches))
                await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                lives.append(loop)
        for batch in batches:
            assert (await scheduler.read("batch", "default", batch.batch_id)).tally.completed == 200
        log = await scheduler.read("whole_log")
        ready = [entry.message.split()[0] for entry in log if entry.kind == "ready"]
        assert sorted(ready) == ["echo", "other"]
        assert len(lives) == 2


async def everyone_ended(scheduler: Scheduler, batches: list[Batch]) -> None:
    for batch in batches:
        await ended(scheduler, batch.batch_id)


class Scripted(GpuGuard):
    """Reads what the test says."""

    def __init__(self) -> None:
        super().__init__(GpuLimits())
        self.celsius = 60

    async def look(self) -> None:
        reading = GpuReading(0, "GPU-0", "card", 16 << 30, 8 << 30, 0, self.celsius, 200.0, 320.0, 1.0)
        self.readings = (reading,)
        self.verdict = judge(self.verdict, self.readings, GpuLimits())


async def test_heat_empties_the_window_and_closes_the_door_until_the_card_has_cooled(home: Home) -> None:
    guard = Scripted()
    async with (
        scheduling(home) as (scheduler, gateway),
        engine_running(home, gateway, EchoEngine(SLOW), guard=guard),
    ):
        batch = await create(scheduler, await store(home, scheduler, upload_of(4_000)))
        await until(scheduler, batch.batch_id, lambda batch: batch.finished_rows > 60)
        guard.celsius = 90
        file = await store(home, scheduler, upload_of(10))
        while (await scheduler.read("overview")).closed is None:
            await asyncio.sleep(0.01)
        with pytest.raises(Unavailable, match=r"90 .C"):
            await create(scheduler, file)
        while any(engine.held_rows for engine in (await scheduler.read("overview")).engines):
            await asyncio.sleep(0.01)
        rested = await scheduler.read("batch", "default", batch.batch_id)
        assert rested.finished_rows < 4_000

        guard.celsius = 78  # cooler, but not below where it recovers
        while (await scheduler.read("overview")).engines[0].gpus[0].temperature_c != 78:
            await asyncio.sleep(0.01)
        assert (await scheduler.read("overview")).closed is not None

        guard.celsius = 60
        assert (await ended(scheduler, batch.batch_id)).tally.completed == 4_000
        await create(scheduler, file)
        kinds = [entry.kind for entry in await scheduler.read("whole_log")]
        assert kinds.index("gpu_unfit") < kinds.index("gpu_fit")


async def lives(home: Home, gateway: LocalGateway, scheduler: Scheduler, batch_id: str) -> list[str]:
    """An engine that is born again whenever it died, until the batch ended: why each life ended."""
    whys = []
    while (await scheduler.read("batch", "default", batch_id)).active:
        async with engine_running(home, gateway, EchoEngine(SLOW)) as (_, task):
            done = asyncio.ensure_future(ended(scheduler, batch_id))
            await asyncio.wait({task, done}, return_when=asyncio.FIRST_COMPLETED)
            done.cancel()
            if task.done():
                whys.append(await task)
    return whys


QUICK_TURNS = Policy(lane_turn_s=1.0, restarts_free=100)


async def test_a_row_that_kills_its_engine_is_found_and_buried_and_every_other_row_completes(
    home: Home,
) -> None:
    upload = upload_of(500, lambda i: "[[crash]]" if i == 123 else f"row {i}")
    async with scheduling(home, QUICK_TURNS) as (scheduler, gateway):
        batch = await create(scheduler, await store(home, scheduler, upload))
        whys = await lives(home, gateway, scheduler, batch.batch_id)
        batch = await ended(scheduler, batch.batch_id)

        assert (batch.status, batch.tally.completed, batch.tally.failed) == ("completed", 499, 1)
        assert set(whys) == {"the engine died"}
        assert len(whys) <= 9
        (buried,) = await lines_of(home, scheduler, batch.batch_id, "error")
        assert buried["custom_id"] == "id-123"
        assert (buried["response"], buried["error"]["code"]) == (None, "engine_crash")
        output = await lines_of(home, scheduler, batch.batch_id, "output")
        assert [line["custom_id"] for line in output] == [f"id-{i}" for i in range(500) if i != 123]


async def test_kills_from_outside_blame_no_row(home: Home) -> None:
    async with scheduling(home, QUICK_TURNS) as (scheduler, gateway):
        batch = await create(scheduler, await store(home, scheduler, upload_of(5_000)))
        for _ in range(5):
            least = (await scheduler.read("batch", "default", batch.batch_id)).finished_rows + 32
            engine = EchoEngine(SLOW)
            async with engine_running(home, gateway, engine) as (_, task):
                await until(scheduler, batch.batch_id, partial(finished_more_than, least))
                os.kill(engine.child_pids()[0], signal.SIGKILL)
                await task
        async with engine_running(home, gateway):
            batch = await ended(scheduler, batch.batch_id)
        assert (batch.tally.completed, batch.tally.failed) == (5_000, 0)
        kinds = {entry.kind for entry in await scheduler.read("log", "default", batch.batch_id)}
        assert "suspected" not in kinds


def finished_more_than(rows: int, batch: Batch) -> bool:
    return batch.finished_rows > rows
