"""A batch as server-sent events: every change once, the log, and an end."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI

from raybatch.errors import Unavailable
from serve_app import events
from tests.serve_app.local_scheduler import LocalScheduler
from tests.serve_app.requests import CHAT, some

ROWS = 20
ROWS_A_LOOK = 8


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch, scheduler: LocalScheduler) -> None:
    """Before each look some rows run; at the third one the scheduler is away."""
    monkeypatch.setattr(events, "LOOK_S", 0.0)
    read = scheduler.read
    looks = 0

    async def look(what: str, *args: Any) -> Any:
        nonlocal looks
        if what == "view":
            looks += 1
            if looks == 3:
                raise Unavailable("The scheduler is starting.", retry_after_s=1)
            scheduler.run_rows(ROWS_A_LOOK)
        return await read(what, *args)

    monkeypatch.setattr(scheduler, "read", look)


@pytest.fixture
async def path(client: AsyncOpenAI, scheduler: LocalScheduler) -> str:
    """Of the events of a batch that runs."""
    file = await client.files.create(file=("in.jsonl", some(ROWS)), purpose="batch")
    batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    scheduler.run_chores()
    return f"/v1/batches/{batch.id}/events"


def told(text: str) -> list[dict[str, Any]]:
    """The events of a stream."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append(fields | {"data": json.loads(fields["data"])})
    return found


async def test_every_change_comes_once_until_the_batch_has_ended(http: httpx2.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.headers["content-type"].startswith("text/event-stream")
    batches = [event["data"] for event in told(answer.text) if event["event"] == "batch"]
    assert [seen["request_counts"]["completed"] for seen in batches] == [8, 16, 20]
    assert [seen["status"] for seen in batches] == ["in_progress", "in_progress", "completed"]


async def test_a_client_that_comes_again_is_told_the_log_from_where_it_was(
    http: httpx2.AsyncClient, path: str
) -> None:
    entries = [event for event in told((await http.get(path)).text) if "id" in event]
    shown = (await http.get(path.replace("events", "logs"))).json()["data"]
    assert [entry["data"] for entry in entries] == shown
    assert len(entries) > 2

    again = {"Last-Event-ID": entries[1]["id"]}
    rest = told((await http.get(path, headers=again)).text)
    assert [event["id"] for event in rest if "id" in event] == [entry["id"] for entry in entries[2:]]


async def test_head_does_not_wait_for_the_end(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, path: str
) -> None:
    answer = await http.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert scheduler.batches()[0].status == "in_progress"
