"""DELETE of a batch, and files that expire, as clients see them."""

from __future__ import annotations

import openai
import pytest
from httpx2 import AsyncClient
from openai import AsyncOpenAI

from raybatch.core.events import RetentionDue
from tests.serve_app.local_scheduler import LocalScheduler
from tests.serve_app.requests import CHAT, some


async def ended(client: AsyncOpenAI, scheduler: LocalScheduler, **more: object) -> openai.types.Batch:
    file = await client.files.create(file=("a.jsonl", some(2)), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", extra_body=more
    )
    scheduler.run_chores()
    scheduler.run_rows(2)
    return await client.batches.retrieve(batch.id)


async def test_a_deleted_batch_is_found_nowhere_and_its_input_stays(
    client: AsyncOpenAI, http: AsyncClient, scheduler: LocalScheduler
) -> None:
    batch = await ended(client, scheduler)
    path = f"/v1/batches/{batch.id}"
    answer = await http.delete(path)
    assert answer.json() == {"id": batch.id, "object": "batch", "deleted": True, "status": "completed"}
    for gone in (path, f"{path}/results", f"{path}/failed", f"{path}/logs"):
        assert (await http.get(gone)).status_code == 404
    assert (await http.get(f"/v1/files/{batch.output_file_id}/content")).status_code == 404
    assert (await http.delete(path)).status_code == 404
    assert [listed.id async for listed in client.batches.list()] == []
    assert [file.id async for file in client.files.list()] == [batch.input_file_id]


async def test_an_active_batch_is_cancelled_instead(
    client: AsyncOpenAI, http: AsyncClient, scheduler: LocalScheduler
) -> None:
    file = await client.files.create(file=("a.jsonl", some(2)), purpose="batch")
    batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    scheduler.run_chores()
    answer = (await http.delete(f"/v1/batches/{batch.id}")).json()
    assert (answer["deleted"], answer["status"]) == (False, "cancelling")
    scheduler.run_chores()
    assert (await client.batches.retrieve(batch.id)).status == "cancelled"
    assert (await http.delete(f"/v1/batches/{batch.id}")).json()["deleted"]


async def test_a_file_says_when_it_expires_and_is_gone_then(
    client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    stays = await client.files.create(file=("a.jsonl", some(1)), purpose="batch")
    expiry = {"anchor": "created_at", "seconds": 3600}
    file = await client.files.create(file=("a.jsonl", some(1)), purpose="batch", expires_after=expiry)
    assert (stays.expires_at, file.expires_at) == (None, file.created_at + 3600)
    scheduler.set_clock(file.created_at + 3599.0)
    await scheduler.ask(RetentionDue())
    assert (await client.files.retrieve(file.id)).id == file.id
    scheduler.set_clock(file.created_at + 3601.0)
    await scheduler.ask(RetentionDue())
    with pytest.raises(openai.NotFoundError):
        await client.files.content(file.id)
    assert (await client.files.retrieve(stays.id)).id == stays.id


async def test_output_files_expire_as_the_batch_was_told(
    client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    batch = await ended(client, scheduler, output_expires_after={"anchor": "created_at", "seconds": 7200})
    output = await client.files.retrieve(batch.output_file_id or "")
    assert output.expires_at == output.created_at + 7200
    scheduler.set_clock(output.created_at + 7201.0)
    await scheduler.ask(RetentionDue())
    with pytest.raises(openai.NotFoundError):
        await client.files.content(output.id)
    assert (await client.batches.retrieve(batch.id)).status == "completed"


@pytest.mark.parametrize(
    ("expiry", "param"),
    [
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "10"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "soon"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"expires_after[seconds]": "3600"}, "expires_after.anchor"),
    ],
)
async def test_an_expiry_that_cannot_be_is_refused_and_nothing_is_kept(
    http: AsyncClient, client: AsyncOpenAI, expiry: dict[str, str], param: str
) -> None:
    form = {"purpose": "batch"} | expiry
    answer = await http.post("/v1/files", data=form, files={"file": ("a.jsonl", some(1))})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert [file.id async for file in client.files.list()] == []
