"""Large uploads through the stock client, and the files they become."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI

from raybatch.config import Home
from tests.serve_app.local_scheduler import LocalScheduler, blobs
from tests.serve_app.requests import CHAT, some
from tests.serve_app.upload_steps import CONTENT, LINES, begun, content_of, message, parts_left, sent


async def test_a_file_in_parts_becomes_one_like_any_other(
    client: AsyncOpenAI, home: Home, scheduler: LocalScheduler
) -> None:
    before = int(time.time())
    upload = await begun(client)
    assert (upload.status, upload.bytes, upload.filename) == ("pending", len(CONTENT), "a b.jsonl")
    assert (upload.purpose, upload.file) == ("batch", None)
    assert before <= upload.created_at <= time.time()
    assert upload.expires_at - upload.created_at == 3600

    part_ids = await sent(client, upload)
    assert len(set(part_ids)) == 3
    md5 = hashlib.md5(CONTENT).hexdigest()
    completed = await client.uploads.complete(upload.id, part_ids=part_ids, md5=md5)
    file = completed.file
    assert file is not None
    assert (completed.id, completed.status) == (upload.id, "completed")
    assert (file.bytes, file.filename, file.purpose) == (len(CONTENT), "a b.jsonl", "batch")
    assert (file.status, file.expires_at) == ("processed", None)
    assert await client.files.retrieve(file.id) == file
    assert await content_of(client, file) == CONTENT
    known = await scheduler.read("file", "default", file.id)
    assert (known.lines, known.sha256) == (LINES, hashlib.sha256(CONTENT).hexdigest())
    assert parts_left(home) == set()


async def test_the_stock_clients_own_way_feeds_a_batch(
    client: AsyncOpenAI, scheduler: LocalScheduler, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(some(2))
    completed = await client.uploads.upload_file_chunked(
        file=path, mime_type="text/jsonl", purpose="batch", part_size=100
    )
    assert completed.file is not None
    batch = await client.batches.create(
        input_file_id=completed.file.id, endpoint=CHAT, completion_window="24h"
    )
    scheduler.run_chores()
    scheduler.run_rows(2)
    batch = await client.batches.retrieve(batch.id)
    assert batch.request_counts is not None
    assert (batch.status, batch.request_counts.completed) == ("completed", 2)


async def test_a_cut_may_go_through_the_byte_order_mark(
    client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    upload = await begun(client)
    part_ids = [
        (await client.uploads.parts.create(upload.id, data=part)).id
        for part in (CONTENT[:1], CONTENT[1:2], CONTENT[2:])
    ]
    completed = await client.uploads.complete(upload.id, part_ids=part_ids)
    assert completed.file is not None
    assert (await scheduler.read("file", "default", completed.file.id)).lines == LINES


async def test_the_order_is_that_of_the_ids_whenever_the_parts_came(client: AsyncOpenAI) -> None:
    upload = await begun(client, some(4))
    cut = len(some(2))
    late = await client.uploads.parts.create(upload.id, data=some(4)[cut:])
    early = await client.uploads.parts.create(upload.id, data=some(4)[:cut])
    completed = await client.uploads.complete(upload.id, part_ids=[early.id, late.id])
    assert await content_of(client, completed.file) == some(4)


async def test_the_files_expiry_counts_from_its_own_creation(client: AsyncOpenAI) -> None:
    upload = await begun(client, expires_after={"anchor": "created_at", "seconds": 7200})
    completed = await client.uploads.complete(upload.id, part_ids=await sent(client, upload))
    assert completed.file is not None
    assert completed.file.expires_at is not None
    assert completed.file.expires_at - completed.file.created_at == 7200


async def test_a_cancelled_upload_keeps_nothing(client: AsyncOpenAI, home: Home) -> None:
    upload = await begun(client)
    part_ids = await sent(client, upload)
    for _ in range(2):  # asked again, it answers the same
        assert (await client.uploads.cancel(upload.id)).status == "cancelled"
    assert parts_left(home) == set()
    for ask in (client.uploads.complete(upload.id, part_ids=part_ids), sent(client, upload)):
        with pytest.raises(openai.BadRequestError) as refused:
            await ask
        assert "with status 'cancelled'" in message(refused)
    assert blobs(home) == []
