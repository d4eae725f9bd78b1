"""Each step of a large upload asked again, and cut off at every place."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Upload

from raybatch.config import Home
from raybatch.storage.blobs import BlobWriter
from raybatch.storage.hashed_file import HashedBytes
from raybatch.storage.joined_parts import JoinedPartWriter
from raybatch.storage.uploads import UploadStore
from serve_app import joining, uploads
from tests.serve_app.local_scheduler import LocalScheduler, blobs
from tests.serve_app.requests import some
from tests.serve_app.upload_steps import CONTENT, begun, content_of, message, parts_left, sent, sent_in_turn

Send = Callable[[AsyncOpenAI, Upload], Awaitable[list[str]]]


class Died(BaseException):
    """As if the process had been killed there."""


@pytest.fixture
def dies_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The first to pass the label goes no further."""

    def arm(label: str) -> None:
        def passing(passed: str) -> None:
            if passed == label:
                arm("nothing more")
                raise Died

        for module in (uploads, joining):
            monkeypatch.setattr(module, "crash_point", passing)

    return arm


async def test_a_part_sent_again_is_the_same_part_and_equal_parts_may_be_named_twice(
    client: AsyncOpenAI, home: Home
) -> None:
    upload = await begun(client, some(1) * 2)
    part_ids = [(await client.uploads.parts.create(upload.id, data=some(1))).id for _ in range(3)]
    assert len(set(part_ids)) == len(parts_left(home)) == 1
    completed = await client.uploads.complete(upload.id, part_ids=part_ids[:2])
    assert await content_of(client, completed.file) == some(1) * 2


async def test_completing_again_answers_the_same_file_and_only_for_the_same_parts(
    client: AsyncOpenAI,
) -> None:
    upload = await begun(client)
    part_ids = await sent(client, upload)
    first, second = await asyncio.gather(
        *(client.uploads.complete(upload.id, part_ids=part_ids) for _ in range(2))
    )
    assert first == second == await client.uploads.complete(upload.id, part_ids=part_ids)
    assert first.file is not None
    assert [file.id async for file in client.files.list()] == [first.file.id]
    asks = (
        client.uploads.complete(upload.id, part_ids=part_ids[::-1]),
        client.uploads.cancel(upload.id),
        client.uploads.parts.create(upload.id, data=b"{}"),
    )
    for ask in asks:
        with pytest.raises(openai.BadRequestError) as refused:
            await ask
        assert "with status 'completed'" in message(refused)


@pytest.mark.parametrize(
    "label",
    ["large_upload.chosen", "large_upload.joined", "large_upload.remembered", "large_upload.ended"],
)
@pytest.mark.parametrize("send", [sent, sent_in_turn])
async def test_dying_while_it_is_completed_costs_nothing_and_makes_one_file(
    client: AsyncOpenAI, home: Home, dies_at: Callable[[str], None], label: str, send: Send
) -> None:
    upload = await begun(client)
    part_ids = await send(client, upload)
    dies_at(label)
    with pytest.raises(Died):
        await client.uploads.complete(upload.id, part_ids=part_ids)

    for ask in (
        client.uploads.complete(upload.id, part_ids=part_ids[::-1]),
        client.uploads.cancel(upload.id),
    ):
        with pytest.raises(openai.BadRequestError):  # the file may be known already, in the first order
            await ask
    completed = await client.uploads.complete(upload.id, part_ids=part_ids)
    assert completed.file is not None
    assert [file.id async for file in client.files.list()] == [completed.file.id]
    assert await content_of(client, completed.file) == CONTENT
    assert await client.uploads.complete(upload.id, part_ids=part_ids) == completed
    assert [path.name for path in blobs(home)] == [completed.file.id]
    assert parts_left(home) == set()


async def test_dying_while_a_part_comes_leaves_no_part_of_it(
    client: AsyncOpenAI, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await begun(client)

    def dead(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(JoinedPartWriter, "commit", dead)
        patched.setattr(JoinedPartWriter, "__exit__", lambda writer, *_: writer._file.close())
        with pytest.raises(Died):
            await client.uploads.parts.create(upload.id, data=CONTENT)
    assert parts_left(home) == set()
    completed = await client.uploads.complete(upload.id, part_ids=await sent(client, upload))
    assert await content_of(client, completed.file) == CONTENT


async def test_a_part_is_refused_while_and_accepted_after_another_request_holds_the_upload(
    client: AsyncOpenAI, store: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await begun(client)
    with store.held(upload.id) as mine, monkeypatch.context() as patched:
        assert mine
        patched.setattr(uploads, "HELD_MAX_S", 0.0)
        with pytest.raises(openai.RateLimitError) as refused:
            await sent(client, upload, pieces=1)
        assert refused.value.response.headers["retry-after"] == "5"
    await client.uploads.complete(upload.id, part_ids=await sent(client, upload))


async def test_a_scheduler_that_is_away_is_a_503_and_the_upload_goes_on_afterwards(
    client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    upload = await begun(client)
    part_ids = await sent(client, upload)
    scheduler.down = True
    with pytest.raises(openai.InternalServerError) as refused:
        await client.uploads.complete(upload.id, part_ids=part_ids)
    assert refused.value.status_code == 503
    scheduler.down = False
    completed = await client.uploads.complete(upload.id, part_ids=part_ids)
    assert await content_of(client, completed.file) == CONTENT


@pytest.mark.parametrize("writer", [HashedBytes, BlobWriter])
async def test_a_full_disk_is_a_503_and_the_step_can_be_asked_again(
    client: AsyncOpenAI, home: Home, monkeypatch: pytest.MonkeyPatch, writer: type[Any]
) -> None:
    upload = await begun(client)
    part_ids = await sent(client, upload) if writer is BlobWriter else []

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(writer, "write", full)
        with pytest.raises(openai.InternalServerError) as refused:
            await client.uploads.complete(upload.id, part_ids=part_ids or await sent(client, upload))
    assert (refused.value.status_code, refused.value.code) == (503, "disk_full")
    assert refused.value.response.headers["retry-after"] == "60"
    assert blobs(home) == []
    completed = await client.uploads.complete(upload.id, part_ids=part_ids or await sent(client, upload))
    assert await content_of(client, completed.file) == CONTENT
