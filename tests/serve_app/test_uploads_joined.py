"""Parts sent one after the other are the file already; every other way to the same file is the slower one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Upload

from raybatch.actors.read_ahead import LARGE_BYTES
from raybatch.config import Home
from raybatch.core.events import Event, UploadArriving
from serve_app import joining
from serve_app.upload import WRITE_BYTES
from serve_app.whole import HELD_BYTES_MAX, KEPT_MAX, Wholes
from tests.serve_app.conftest import MakeHttp
from tests.serve_app.local_scheduler import LocalScheduler, blobs
from tests.serve_app.requests import some
from tests.serve_app.upload_steps import (
    CONTENT,
    LINES,
    begun,
    content_of,
    message,
    parts_left,
    sent_in_turn,
)

Reads = list[Path]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The files that were read to learn what they come to."""
    seen: Reads = []
    read_blocks = joining.read_blocks

    def reading(path: Path) -> Any:
        seen.append(path)
        return read_blocks(path)

    monkeypatch.setattr(joining, "read_blocks", reading)
    return seen


def joined(home: Home) -> list[Path]:
    return list(home.uploads.glob("*/joined"))


async def check(client: AsyncOpenAI, scheduler: LocalScheduler, home: Home, completed: Upload) -> None:
    """It is a file like any other, and nothing else is left."""
    assert completed.file is not None
    assert await content_of(client, completed.file) == CONTENT
    known = await scheduler.read("file", "default", completed.file.id)
    assert (known.lines, known.sha256) == (LINES, hashlib.sha256(CONTENT).hexdigest())
    assert known.size_bytes == len(CONTENT)
    assert [path.name for path in blobs(home)] == [completed.file.id]
    assert not parts_left(home)
    assert not joined(home)


async def test_parts_in_turn_become_the_file_without_being_copied_or_read(
    client: AsyncOpenAI, scheduler: LocalScheduler, home: Home, reads: Reads
) -> None:
    upload = await begun(client)
    part_ids = await sent_in_turn(client, upload)
    (inode,) = [path.stat().st_ino for path in joined(home)]
    completed = await client.uploads.complete(upload.id, part_ids=part_ids)
    (blob,) = blobs(home)
    assert blob.stat().st_ino == inode
    assert reads == []
    await check(client, scheduler, home, completed)


async def test_an_md5_is_checked_by_reading_it(
    client: AsyncOpenAI, scheduler: LocalScheduler, home: Home, reads: Reads
) -> None:
    upload = await begun(client)
    part_ids = await sent_in_turn(client, upload)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.uploads.complete(upload.id, part_ids=part_ids, md5="0" * 32)
    assert hashlib.md5(CONTENT).hexdigest() in message(refused)
    md5 = hashlib.md5(CONTENT).hexdigest()
    completed = await client.uploads.complete(upload.id, part_ids=part_ids, md5=md5)
    assert len(reads) == 2
    await check(client, scheduler, home, completed)


async def test_another_replica_can_go_on_and_complete(
    client: AsyncOpenAI, make_http: MakeHttp, scheduler: LocalScheduler, home: Home, reads: Reads
) -> None:
    http = make_http()
    other = AsyncOpenAI(api_key="any", base_url=client.base_url, http_client=http, max_retries=0)
    upload = await begun(client)
    part_ids = [
        (await one.uploads.parts.create(upload.id, data=CONTENT[start:stop])).id
        for one, start, stop in ((client, 0, 100), (other, 100, 300), (client, 300, None))
    ]
    completed = await other.uploads.complete(upload.id, part_ids=part_ids)
    assert len(reads) == 1
    await check(client, scheduler, home, completed)


async def test_a_filesystem_without_second_names_costs_a_copy(
    client: AsyncOpenAI, scheduler: LocalScheduler, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    upload = await begun(client)
    completed = await client.uploads.complete(upload.id, part_ids=await sent_in_turn(client, upload))
    await check(client, scheduler, home, completed)


async def test_a_part_cut_off_in_the_middle_is_sent_again_and_harms_nothing(
    client: AsyncOpenAI, http: httpx2.AsyncClient, scheduler: LocalScheduler, home: Home
) -> None:
    upload = await begun(client)
    part_ids = [(await client.uploads.parts.create(upload.id, data=CONTENT[:100])).id]
    torn = (
        b'--x\r\nContent-Disposition: form-data; name="data"; filename="p"\r\n\r\n' + b" " * 3 * WRITE_BYTES
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = await http.post(f"/v1/uploads/{upload.id}/parts", content=torn, headers=headers)
    assert (answer.status_code, "cut short" in answer.text) == (400, True)
    (path,) = joined(home)
    assert path.stat().st_size > 100
    for part in (CONTENT[100:300], CONTENT[300:]):
        part_ids.append((await client.uploads.parts.create(upload.id, data=part)).id)
    completed = await client.uploads.complete(upload.id, part_ids=part_ids)
    await check(client, scheduler, home, completed)


async def test_parts_that_come_backwards_are_put_in_order_even_where_the_first_is_no_json(
    client: AsyncOpenAI, scheduler: LocalScheduler, home: Home
) -> None:
    upload = await begun(client)
    at = CONTENT.index(b"not json")
    late, early = [
        (await client.uploads.parts.create(upload.id, data=part)).id for part in (CONTENT[at:], CONTENT[:at])
    ]
    with pytest.raises(openai.BadRequestError, match="first line is not JSON"):
        await client.uploads.complete(upload.id, part_ids=[late, early])
    completed = await client.uploads.complete(upload.id, part_ids=[early, late])
    await check(client, scheduler, home, completed)


async def test_who_asks_too_late_to_add_a_part_does_not_change_the_file(
    client: AsyncOpenAI, scheduler: LocalScheduler, home: Home
) -> None:
    """It was asked to complete while a part was on its way."""
    upload = await begun(client)
    part_ids = await sent_in_turn(client, upload)
    (path,) = joined(home)
    (home.files / "other-name").hardlink_to(path)
    with pytest.raises(openai.BadRequestError, match="declared"):
        await client.uploads.parts.create(upload.id, data=b"{}\n")
    (home.files / "other-name").unlink()
    assert path.stat().st_size == len(CONTENT)
    completed = await client.uploads.complete(upload.id, part_ids=part_ids)
    await check(client, scheduler, home, completed)


async def test_it_is_announced_once_while_its_parts_arrive(
    client: AsyncOpenAI, scheduler: LocalScheduler, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[UploadArriving] = []
    ask: Callable[[Event], Any] = scheduler.ask

    async def heard(event: Event) -> Any:
        if isinstance(event, UploadArriving):
            told.append(event)
            return None
        return await ask(event)

    monkeypatch.setattr(scheduler, "ask", heard)
    content = some(2) + 4 * (b" " * (LARGE_BYTES - 1) + b"\n")
    upload = await begun(client, content)
    part_ids = await sent_in_turn(client, upload, content)
    assert [event.path for event in told] == [str(joined(home)[0].relative_to(home.root))]
    completed = await client.uploads.complete(upload.id, part_ids=part_ids)
    assert completed.file is not None
    assert [event.file_id for event in told] == [completed.file.id]


def test_what_is_known_of_an_upload_counts_for_its_very_length_and_is_taken_once() -> None:
    wholes = Wholes(1000)
    whole = wholes.take("a", 0)
    assert whole is not None
    whole.feed(b"{}\n")
    wholes.keep("a", whole)
    assert wholes.take("b", 3) is None
    assert wholes.take("a", None) is None
    wholes.keep("a", whole)
    assert wholes.take("a", 2) is None
    wholes.keep("a", whole)
    assert wholes.take("a", 3) is whole
    assert wholes.take("a", 3) is None


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_first_line_that_is_long_is_not_held_between_parts(end: bytes) -> None:
    wholes = Wholes(1 << 20)
    for length, known in ((HELD_BYTES_MAX, True), (HELD_BYTES_MAX + 1, False)):
        whole = wholes.new()
        whole.feed(b'"' + b"x" * (length - 2) + b'"' + end)
        wholes.keep("a", whole)
        assert (wholes.take("a", length + len(end)) is whole) is known


def test_so_many_are_known_at_once() -> None:
    wholes = Wholes(1000)
    for number in range(KEPT_MAX + 1):
        whole = wholes.new()
        whole.feed(b"{}\n")
        wholes.keep(f"upload {number}", whole)
    assert wholes.take("upload 0", 3) is None
    assert wholes.take("upload 1", 3) is not None
