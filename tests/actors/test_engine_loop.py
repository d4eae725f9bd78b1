"""An engine's life against the production scheduler, on one event loop: rows in, parts out, nothing twice."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from pathlib import Path

import pytest

from raybatch.config import Home
from raybatch.core.events import CancelAsked, DrainAsked
from raybatch.core.model import BatchStatus
from raybatch.engine.echo import EchoEngine, EchoSettings
from tests.actors.local import create, ended, engine_running, lines_of, scheduling, store, until, upload_of

SLOW = EchoSettings(alpha_ms=2.0, concurrency=32)


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
