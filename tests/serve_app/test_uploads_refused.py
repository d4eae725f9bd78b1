"""What a large upload is refused for, in which words, and that it can be mended."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from raybatch.config import Home
from raybatch.storage.uploads import UploadStore
from serve_app.door import Door
from tests.serve_app.local_scheduler import LocalScheduler, blobs
from tests.serve_app.requests import some
from tests.serve_app.upload_steps import CONTENT, begun, content_of, message, parts_left, sent


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


async def test_a_closed_server_says_so_before_gigabytes_are_sent(
    client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    scheduler.look_around(disk_free_bytes=1)
    with pytest.raises(openai.InternalServerError) as refused:
        await begun(client)
    assert (refused.value.status_code, refused.value.code) == (503, "disk_low")
