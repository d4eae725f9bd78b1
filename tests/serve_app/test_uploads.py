"""Large uploads through the stock client; each step asked again, and cut off at every place."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import FileObject, Upload

from raybatch.config import Home
from raybatch.storage.blobs import BlobWriter
from raybatch.storage.uploads import PartWriter, UploadStore
from serve_app import uploads
from serve_app.door import Door
from tests.serve_app.local_scheduler import LocalScheduler, blobs
from tests.serve_app.requests import CHAT, some

CONTENT = b"\xef\xbb\xbf\r\n" + some(40) + b"\n  \nnot json\n" + some(2)
LINES = 43


class Died(BaseException):
    """As if the process had been killed there."""


@pytest.fixture
def store(home: Home) -> UploadStore:
    return UploadStore(home.uploads)


@pytest.fixture
def dies_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The first to pass the label goes no further."""

    def arm(label: str) -> None:
        def passing(passed: str) -> None:
            if passed == label:
                monkeypatch.setattr(uploads, "crash_point", lambda _: None)
                raise Died

        monkeypatch.setattr(uploads, "crash_point", passing)

    return arm


async def begun(client: AsyncOpenAI, content: bytes = CONTENT, **more: Any) -> Upload:
    given = {
        "bytes": len(content),
        "filename": "dir/a b.jsonl",
        "mime_type": "text/jsonl",
        "purpose": "batch",
    }
    return await client.uploads.create(**(given | more))  # type: ignore[arg-type]


async def sent(client: AsyncOpenAI, upload: Upload, content: bytes = CONTENT, pieces: int = 3) -> list[str]:
    """The ids of the parts, in order; they are sent all at once."""
    step = -(-len(content) // pieces)
    parts = [content[start : start + step] for start in range(0, len(content), step)]
    added = await asyncio.gather(*(client.uploads.parts.create(upload.id, data=part) for part in parts))
    return [part.id for part in added]


async def content_of(client: AsyncOpenAI, file: FileObject | None) -> bytes:
    assert file is not None
    return (await client.files.content(file.id)).content


def parts_left(home: Home) -> list[Path]:
    return list(home.uploads.glob("*/part_*"))


def message(refused: pytest.ExceptionInfo[openai.APIStatusError]) -> str:
    assert isinstance(refused.value.body, dict)
    return str(refused.value.body["message"])


# -- what works ----------------------------------------------------------------------------------------------


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
    assert parts_left(home) == []


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
    assert parts_left(home) == []
    for ask in (client.uploads.complete(upload.id, part_ids=part_ids), sent(client, upload)):
        with pytest.raises(openai.BadRequestError) as refused:
            await ask
        assert "with status 'cancelled'" in message(refused)
    assert blobs(home) == []


# -- asked again, and cut off --------------------------------------------------------------------------------


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
async def test_dying_while_it_is_completed_costs_nothing_and_makes_one_file(
    client: AsyncOpenAI, home: Home, dies_at: Callable[[str], None], label: str
) -> None:
    upload = await begun(client)
    part_ids = await sent(client, upload)
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
    assert parts_left(home) == []


async def test_dying_while_a_part_comes_leaves_no_part_of_it(
    client: AsyncOpenAI, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await begun(client)

    def dead(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(PartWriter, "commit", dead)
        patched.setattr(PartWriter, "__exit__", lambda writer, *_: writer._file.close())  # and nothing else
        with pytest.raises(Died):
            await client.uploads.parts.create(upload.id, data=CONTENT)
    assert parts_left(home) == []
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


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": (8 << 30) + 1}, "bytes"),
        ({"bytes": "many"}, "bytes"),
        ({"bytes": True}, "bytes"),
        ({"bytes": None}, "bytes"),
        ({"purpose": "vision"}, "purpose"),
        ({"filename": None}, "filename"),
        ({"mime_type": None}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 3599}}, "expires_after.seconds"),
        ({"extra_body": {"md5": "x"}}, "md5"),
    ],
)
async def test_a_wrong_declaration_names_its_fault(
    client: AsyncOpenAI, home: Home, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await begun(client, **given)
    assert refused.value.param == param
    assert list(home.uploads.iterdir()) == []


async def test_a_file_above_the_limit_is_refused_with_the_setting_and_what_was_found(
    make_http: Callable[..., httpx2.AsyncClient],
) -> None:
    asked = {"bytes": 101, "filename": "a", "mime_type": "text/jsonl", "purpose": "batch"}
    answer = await make_http(large_upload_bytes_max=100).post("/v1/uploads", json=asked)
    assert answer.status_code == 400
    for part in ("100", "101", "api.large_upload_bytes_max"):
        assert part in answer.json()["error"]["message"]


async def test_a_file_too_large_for_one_piece_is_told_of_the_other_way(
    make_http: Callable[..., httpx2.AsyncClient],
) -> None:
    http = make_http(upload_bytes_max=1000)
    answer = await http.post("/v1/files", files={"file": some(50)}, data={"purpose": "batch"})
    assert answer.status_code == 413
    for way in ("/v1/uploads", "raybatch submit"):
        assert way in answer.json()["error"]["message"]


async def test_sums_that_differ_are_refused_with_both_numbers(client: AsyncOpenAI, home: Home) -> None:
    upload = await begun(client, some(3))
    part = await client.uploads.parts.create(upload.id, data=some(2))
    for ids in ([part.id], [], [part.id] * 2):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.uploads.complete(upload.id, part_ids=ids)
        assert refused.value.param == "part_ids"
        assert f"{len(some(3)):,}" in message(refused)
        assert f"{len(ids) * len(some(2)):,}" in message(refused)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.uploads.parts.create(upload.id, data=some(3)[1:])
    assert f"{len(some(2)) + len(some(3)) - 1:,}" in message(refused)
    assert len(parts_left(home)) == 1
    assert blobs(home) == []


async def test_parts_of_nobody_and_another_md5_are_refused_and_can_be_mended(
    client: AsyncOpenAI, home: Home
) -> None:
    upload = await begun(client)
    other = await begun(client)
    part_ids, others = await sent(client, upload), await sent(client, other)
    for wrong in (others[1], "part_x", "upload.json"):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.uploads.complete(upload.id, part_ids=[part_ids[0], wrong, part_ids[2]])
        assert refused.value.param == "part_ids[1]"
        assert wrong in message(refused)
    for md5 in (hashlib.md5(b"").hexdigest(), "x"):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.uploads.complete(upload.id, part_ids=part_ids, md5=md5)
        assert (refused.value.param, md5 in message(refused)) == ("md5", True)
    assert blobs(home) == []
    completed = await client.uploads.complete(upload.id, part_ids=part_ids)
    assert await content_of(client, completed.file) == CONTENT


async def test_what_is_no_jsonl_is_refused_as_in_a_direct_upload(client: AsyncOpenAI, home: Home) -> None:
    content = b"PK\x03\x04zip\n{}\n"
    upload = await begun(client, content)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.uploads.complete(upload.id, part_ids=await sent(client, upload, content))
    assert "Invalid file format for Batch API. Must be .jsonl." in message(refused)
    assert blobs(home) == []


@pytest.mark.parametrize("length_is_told", [True, False])
async def test_a_part_above_64_mib_is_refused_and_leaves_nothing(
    client: AsyncOpenAI, http: httpx2.AsyncClient, home: Home, length_is_told: bool
) -> None:
    upload = await begun(client, bytes=100 << 20)
    form = b'--x\r\nContent-Disposition: form-data; name="data"; filename="p"\r\n\r\n'
    block = bytes(1 << 20)

    async def blocks() -> AsyncIterator[bytes]:
        yield form
        for _ in range(65):
            yield block

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    if length_is_told:
        headers["Content-Length"] = str(65 << 20)
    answer = await http.post(f"/v1/uploads/{upload.id}/parts", content=blocks(), headers=headers)
    assert answer.status_code == 413
    assert "67,108,864" in answer.json()["error"]["message"]
    assert [path.name for path in home.uploads.glob("*/*")] == ["upload.json"]


@pytest.mark.parametrize(
    "form",
    [
        {"files": {"data": b""}},
        {"files": {"file": b"{}"}},
        {"data": {"data": "{}"}},
        {"files": {"data": b"{}"}, "data": {"more": "1"}},
        {"json": {"data": "{}"}},
    ],
)
async def test_a_wrong_form_is_no_part(
    client: AsyncOpenAI, http: httpx2.AsyncClient, home: Home, form: dict[str, Any]
) -> None:
    upload = await begun(client)
    answer = await http.post(f"/v1/uploads/{upload.id}/parts", **form)
    assert answer.status_code == 400
    assert [path.name for path in home.uploads.glob("*/*")] == ["upload.json"]


async def test_more_parts_at_once_than_allowed_are_told_to_come_back(
    make_http: Callable[..., httpx2.AsyncClient], client: AsyncOpenAI
) -> None:
    upload = await begun(client)
    http = make_http(parts_at_once_max=1)
    parts_at, going, go_on = f"/v1/uploads/{upload.id}/parts", asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        going.set()
        await go_on.wait()
        yield b'--x\r\nContent-Disposition: form-data; name="data"; filename="p"\r\n\r\n{}\r\n--x--\r\n'

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    first = asyncio.create_task(http.post(parts_at, content=slow(), headers=headers))
    await going.wait()
    second = await http.post(parts_at, files={"data": b"{}"})
    assert (second.status_code, second.headers["retry-after"]) == (429, "5")
    assert "api.parts_at_once_max" in second.json()["error"]["message"]
    go_on.set()
    assert (await first).status_code == 200


async def test_another_tenants_upload_answers_exactly_as_an_unknown_one(
    client: AsyncOpenAI, store: UploadStore, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await begun(client)
    part_ids = await sent(client, upload)
    unknown = "upload_" + "0" * 32
    monkeypatch.setattr(Door, "tenant", "other")
    for upload_id in (upload.id, unknown, "upload_x", "..%2Ffiles"):
        asks = (
            client.uploads.parts.create(upload_id, data=b"{}"),
            client.uploads.complete(upload_id, part_ids=part_ids),
            client.uploads.cancel(upload_id),
        )
        for ask in asks:
            with pytest.raises(openai.NotFoundError) as refused, store.held(upload.id):
                await ask
            if upload_id.startswith("upload_"):
                assert refused.value.body == {
                    "message": f"No such Upload object: {upload_id}",
                    "type": "invalid_request_error",
                    "param": "id",
                    "code": None,
                }
    assert len(parts_left(home)) == 3


async def test_an_upload_that_had_its_hour_takes_nothing_more(
    client: AsyncOpenAI, store: UploadStore, home: Home
) -> None:
    upload = await begun(client)
    part_ids = await sent(client, upload)
    known = store.load(upload.id)
    store.save(replace(known, created_at=known.created_at - 3600.0))
    asks = (
        client.uploads.parts.create(upload.id, data=b"{}"),
        client.uploads.complete(upload.id, part_ids=part_ids),
        client.uploads.cancel(upload.id),
    )
    for ask in asks:
        with pytest.raises(openai.BadRequestError) as refused:
            await ask
        assert "with status 'expired'" in message(refused)
    assert blobs(home) == []


@pytest.mark.parametrize("writer", [PartWriter, BlobWriter])
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


async def test_a_closed_server_says_so_before_gigabytes_are_sent(
    client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    scheduler.look_around(disk_free_bytes=1)
    with pytest.raises(openai.InternalServerError) as refused:
        await begun(client)
    assert (refused.value.status_code, refused.value.code) == (503, "disk_low")
