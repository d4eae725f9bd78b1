"""A deadline passes while an engine is at work: production classes on one event loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from raybatch.config import Home
from raybatch.core.model import BatchStatus
from raybatch.core.policy import Policy
from raybatch.engine.echo import EchoEngine, EchoSettings
from tests.actors.local import batch_asked, ended, engine_running, lines_of, scheduling, store, upload_of

ROWS = 2_000
WINDOW_S = 2.0
SLOW = EchoSettings(alpha_ms=50.0, concurrency=8)  #: 160 rows a second at the very most


async def test_an_expired_batch_has_each_row_once_and_keeps_what_was_finished(tmp_path: Path) -> None:
    home = Home(tmp_path)
    async with scheduling(home, Policy(expire_unfinished=True)) as (scheduler, gateway):
        file = await store(home, scheduler, upload_of(ROWS))
        batch = await scheduler.ask(replace(batch_asked(file.file_id), completion_window_s=WINDOW_S))
        async with engine_running(home, gateway, EchoEngine(SLOW)):
            batch = await ended(scheduler, batch.batch_id)

        assert batch.status is BatchStatus.EXPIRED
        assert batch.expired_at is not None
        assert batch.expired_at >= batch.expires_at == batch.created_at + WINDOW_S
        assert batch.tally.completed + batch.tally.failed == ROWS
        output = await lines_of(home, scheduler, batch.batch_id, "output")
        errors = await lines_of(home, scheduler, batch.batch_id, "error")
        assert (len(output), len(errors)) == (batch.tally.completed, batch.tally.failed)
        assert {line["custom_id"] for line in (*output, *errors)} == {f"id-{i}" for i in range(ROWS)}
        said = "This request could not be executed before the completion window expired."
        assert all(line["error"] == {"code": "batch_expired", "message": said} for line in errors)
        sizes = {
            file.file_id: file.size_bytes
            for file in (await scheduler.read("files", "default", None, 100, "desc", "batch_output")).items
        }
        assert sizes[batch.error_file_id] == batch.tally.error_bytes
