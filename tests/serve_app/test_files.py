"""Files through the stock client, and uploads that must leave nothing behind."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from raybatch.actors.read_ahead import LARGE_BYTES
from raybatch.config import Home
from raybatch.core.events import Event, UploadArriving
from raybatch.errors import Unavailable
from raybatch.storage.blobs import BlobWriter
from serve_app.app import build_app
from serve_app.multipart import MultipartReader, PartBegun, PartBytes
from tests.serve_app.local_scheduler import LocalScheduler, blobs
from tests.serve_app.requests import CHAT, output_line, some
from tests.serve_app.requests import request as request_line

FORM = b"""--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r
--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n%s\r\n--x--\r\n"""
FORM_TYPE = {"Content-Type": "multipart/form-data; boundary=x"}


async def test_an_upload_comes_back_byte_for_byte_until_it_is_deleted(
    client: AsyncOpenAI, home: Home
) -> None:
    content = b"\xef\xbb\xbf" + some(3).replace(b"\n", b"\r\n") + b"\r\n--x\r\n" + bytes(range(256)) * 8192
    created = await client.files.create(file=("dir/a b.jsonl", content), purpose="batch")

    assert (created.bytes, created.filename, created.purpose) == (len(content), "a b.jsonl", "batch")
    assert created.status == "processed"
    assert await client.files.retrieve(created.id) == created
    assert (await client.files.content(created.id)).content == content

    assert (await client.files.delete(created.id)).deleted
    with pytest.raises(openai.NotFoundError) as gone:
        await client.files.content(created.id)
    assert gone.value.body == {
        "message": f"No such File object: {created.id}",
        "type": "invalid_request_error",
        "param": "id",
        "code": None,
    }


async def test_a_large_upload_is_announced_once_while_it_arrives(
    client: AsyncOpenAI, scheduler: LocalScheduler, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[UploadArriving, int]] = []
    ask = scheduler.ask

    async def heard(event: Event) -> Any:
        if isinstance(event, UploadArriving):
            told.append((event, (home.root / event.path).stat().st_size))
            raise Unavailable("The scheduler cannot be reached.", retry_after_s=1)
        return await ask(event)

    monkeypatch.setattr(scheduler, "ask", heard)
    await client.files.create(file=("small.jsonl", some(3)), purpose="batch")
    assert told == []
    content = some(3) + b" " * 4 * LARGE_BYTES
    file = await client.files.create(file=("large.jsonl", content), purpose="batch")
    (hint, arrived) = told[0]
    assert (len(told), hint.file_id) == (1, file.id)
    assert arrived >= LARGE_BYTES
    assert hint.path != f"files/{file.id}"  # it had not got its name yet


async def test_the_input_of_a_batch_can_be_deleted_while_the_batch_needs_it(
    client: AsyncOpenAI, scheduler: LocalScheduler
) -> None:
    file = await client.files.create(file=("a.jsonl", some(2)), purpose="batch")
    batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert (await client.files.delete(file.id)).deleted
    scheduler.run_chores()
    scheduler.run_rows(2)
    assert (await client.batches.retrieve(batch.id)).status == "completed"


async def test_lists_page_through_every_file_once(client: AsyncOpenAI) -> None:
    ids = [(await client.files.create(file=(f"{i}.jsonl", some(1)), purpose="batch")).id for i in range(5)]
    assert [file.id async for file in client.files.list(limit=2)] == ids[::-1]
    assert [file.id async for file in client.files.list(limit=2, order="asc")] == ids
    assert [file.id async for file in client.files.list(purpose="batch_output")] == []
    with pytest.raises(openai.BadRequestError) as refused:
        await client.files.list(after="file-none")
    assert refused.value.param == "after"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.files.list(limit=0)
    assert refused.value.param == "limit"


# -- downloads -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["upload", "output"])
async def content_url(
    request: pytest.FixtureRequest, client: AsyncOpenAI, scheduler: LocalScheduler
) -> tuple[str, bytes]:
    """Where a file's bytes are, and what they are."""
    file = await client.files.create(file=("a.jsonl", some(40)), purpose="batch")
    if request.param == "upload":
        return f"/v1/files/{file.id}/content", some(40)
    batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    scheduler.run_chores()
    for _ in range(2):
        scheduler.run_rows(20)
    lines = [output_line(i, request_line(f"r{i}")) for i in range(40)]
    file_id = (await client.batches.retrieve(batch.id)).output_file_id
    return f"/v1/files/{file_id}/content", b"".join(lines)


async def test_a_download_announces_its_bytes_and_head_does_too(
    http: httpx2.AsyncClient, content_url: tuple[str, bytes]
) -> None:
    url, content = content_url
    for method, body in (("GET", content), ("HEAD", b"")):
        answer = await http.request(method, url, headers={"Accept-Encoding": "identity"})
        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["content-length"] == str(len(content))
        assert (answer.headers["accept-ranges"], answer.headers["vary"]) == ("bytes", "Accept-Encoding")


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-2999", 100, 2999),
        ("Bytes = 3000-", 3000, -1),
        ("bytes=-7", -7, -1),
        ("bytes=5-99999999999", 5, -1),
        ("bytes=-99999999999", 0, -1),
    ],
)
async def test_a_range_is_those_very_bytes(
    http: httpx2.AsyncClient, content_url: tuple[str, bytes], asked: str, first: int, last: int
) -> None:
    url, content = content_url
    first, last = first % len(content), last % len(content)
    answer = await http.get(url, headers={"Range": asked, "Accept-Encoding": "gzip"})
    assert (answer.status_code, answer.content) == (206, content[first : last + 1])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(content)}"
    assert answer.headers["content-length"] == str(last + 1 - first)
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,4-5", "bytes=5-3", "bytes=-", "bytes=", "lines=1-2", "bytes=a-b", "bytes=1", "é"]
)
async def test_what_is_not_one_range_gets_the_whole_file(
    http: httpx2.AsyncClient, content_url: tuple[str, bytes], asked: str
) -> None:
    url, content = content_url
    answer = await http.get(url, headers={"Range": asked.encode()})
    assert (answer.status_code, answer.content) == (200, content)
    assert "content-range" not in answer.headers


@pytest.mark.parametrize("asked", ["bytes=%d-", "bytes=%d-99999999", "bytes=-0"])
async def test_a_range_behind_the_end_is_refused_with_the_length(
    http: httpx2.AsyncClient, content_url: tuple[str, bytes], asked: str
) -> None:
    url, content = content_url
    answer = await http.get(url, headers={"Range": asked % len(content) if "%d" in asked else asked})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(content)}")
    assert answer.json()["error"]["param"] == "Range"
    assert answer.headers["x-request-id"]


async def test_a_client_that_has_the_file_is_told_so_and_one_that_has_another_gets_the_whole(
    http: httpx2.AsyncClient, content_url: tuple[str, bytes]
) -> None:
    url, content = content_url
    etag = (await http.get(url, headers={"Accept-Encoding": "identity"})).headers["etag"]
    same = {"Accept-Encoding": "identity"}
    for known in (etag, f'"other", W/{etag}', "*"):
        answer = await http.get(url, headers=same | {"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
        assert answer.headers["x-request-id"]
    assert (await http.get(url, headers=same | {"If-None-Match": '"other"'})).status_code == 200

    ranged = {"Range": "bytes=1-2"}
    assert (await http.get(url, headers=ranged | {"If-Range": etag})).status_code == 206
    for other in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = await http.get(url, headers=ranged | {"If-Range": other})
        assert (answer.status_code, answer.content) == (200, content)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip", "gzip"), ("br, *;q=0.1", "gzip"), ("gzip;q=0, *", None), ("gzip; q=0.000", None), ("br", None)],
)
async def test_whole_files_are_compressed_for_those_who_take_it(
    http: httpx2.AsyncClient, content_url: tuple[str, bytes], accepted: str, coding: str | None
) -> None:
    url, content = content_url
    answer = await http.get(url, headers={"Accept-Encoding": accepted})
    assert (answer.headers.get("content-encoding"), answer.content) == (coding, content)
    assert ("content-length" in answer.headers) == (coding is None)
    known = await http.get(
        url, headers={"Accept-Encoding": accepted, "If-None-Match": answer.headers["etag"]}
    )
    assert known.status_code == 304
    plain = await http.head(url, headers={"Accept-Encoding": "identity"})
    assert (plain.headers["etag"] == answer.headers["etag"]) == (coding is None)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\n \r\n\n", b"PK\x03\x04zip\n{}\n", b"\xff\xfe{\x00}\x00", b"{"])
async def test_what_is_no_jsonl_is_refused_and_leaves_nothing(
    client: AsyncOpenAI, home: Home, content: bytes
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.files.create(file=("a.jsonl", content), purpose="batch")
    assert refused.value.message.count("Invalid file format for Batch API. Must be .jsonl.") == 1
    assert blobs(home) == []


async def test_a_good_first_line_is_enough_at_upload(client: AsyncOpenAI) -> None:
    content = b"\n\n" + some(1) + b"not json\n"
    assert (await client.files.create(file=("a.jsonl", content), purpose="batch")).bytes == len(content)


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"files": {"file": b"{}\n"}}, "purpose"),
        ({"files": {"file": b"{}\n"}, "data": {"purpose": "vision"}}, "purpose"),
        ({"files": {"other": b"{}\n"}, "data": {"purpose": "batch"}}, "other"),
        ({"files": {"file": b"{}\n"}, "data": {"purpose": "batch", "pirority": "1"}}, "pirority"),
        ({"files": [("file", b"{}\n"), ("file", b"{}\n")], "data": {"purpose": "batch"}}, "file"),
        ({"json": {"purpose": "batch"}}, None),
    ],
)
async def test_a_wrong_form_names_its_fault_and_leaves_nothing(
    http: httpx2.AsyncClient, home: Home, form: dict[str, Any], param: str | None
) -> None:
    answer = await http.post("/v1/files", **form)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert blobs(home) == []


@pytest.mark.parametrize("length_is_told", [True, False])
async def test_a_file_above_the_limit_is_refused_with_limit_and_setting(
    make_http: Callable[..., httpx2.AsyncClient], home: Home, length_is_told: bool
) -> None:
    http = make_http(upload_bytes_max=1_000_000)
    body = FORM % (b'{"a":1}\n' * 200_000)

    async def blocks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    answer = await http.post("/v1/files", content=body if length_is_told else blocks(), headers=FORM_TYPE)
    assert answer.status_code == 413
    for part in ("1,000,000 bytes", "api.upload_bytes_max"):
        assert part in answer.json()["error"]["message"]
    assert blobs(home) == []


async def test_more_uploads_at_once_than_allowed_are_told_to_come_back(
    make_http: Callable[..., httpx2.AsyncClient],
) -> None:
    http = make_http(uploads_at_once_max=1)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.set()
        await go_on.wait()
        yield FORM % some(1)

    first = asyncio.create_task(http.post("/v1/files", content=slow(), headers=FORM_TYPE))
    await begun.wait()
    second = await http.post("/v1/files", content=FORM % some(1), headers=FORM_TYPE)
    assert (second.status_code, second.headers["retry-after"]) == (429, "5")
    assert "api.uploads_at_once_max" in second.json()["error"]["message"]
    go_on.set()
    assert (await first).status_code == 200
    assert (await http.post("/v1/files", content=FORM % some(1), headers=FORM_TYPE)).status_code == 200


async def test_a_sender_that_falls_silent_gives_its_slot_back(
    make_http: Callable[..., httpx2.AsyncClient], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.upload.SILENCE_MAX_S", 0.05)
    http = make_http(uploads_at_once_max=1)

    async def silent() -> AsyncIterator[bytes]:
        yield FORM[:60]
        await asyncio.Event().wait()

    answer = await http.post("/v1/files", content=silent(), headers=FORM_TYPE)
    assert answer.status_code == 400
    assert "no byte came" in answer.json()["error"]["message"]
    assert blobs(home) == []
    assert (await http.post("/v1/files", content=FORM % some(1), headers=FORM_TYPE)).status_code == 200


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_client_that_leaves_in_the_middle_leaves_nothing(
    home: Home, scheduler: LocalScheduler, cancelled: bool
) -> None:
    """Servers tell of it in two ways: a message, or by cancelling the request."""
    app = build_app(home, scheduler.settings, scheduler)
    written, never = asyncio.Event(), asyncio.Event()
    half = [(FORM % (some(1) * 20_000))[:2_500_000]]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if half:
            return {"type": "http.request", "body": half.pop(), "more_body": True}
        written.set()
        if cancelled:
            await never.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", FORM_TYPE["Content-Type"].encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/files", "query_string": b"", "headers": headers}
    request = asyncio.create_task(app({**scope, "asgi": {"version": "3.0"}}, receive, send))
    await written.wait()
    if cancelled:
        assert len(blobs(home)) == 1  # so there is something to clean up
        request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    assert sent == []
    assert blobs(home) == []
    assert app.state.door.uploads == 0


async def test_a_full_disk_is_a_503_that_leaves_nothing(
    client: AsyncOpenAI, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(writer: BlobWriter, block: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BlobWriter, "write", full)
    with pytest.raises(openai.InternalServerError) as refused:
        await client.files.create(file=("a.jsonl", some(1)), purpose="batch")
    assert (refused.value.status_code, refused.value.code) == (503, "disk_full")
    assert refused.value.response.headers["retry-after"] == "60"
    assert blobs(home) == []


async def test_a_damaged_blob_is_an_error_and_never_a_short_file(client: AsyncOpenAI, home: Home) -> None:
    file = await client.files.create(file=("a.jsonl", some(1)), purpose="batch")
    (home.files / file.id).unlink()
    with pytest.raises(openai.NotFoundError):
        await client.files.content(file.id)


def test_a_form_is_read_the_same_wherever_its_blocks_are_cut() -> None:
    body = FORM % b'{"a":1}\r\n--y\r\n{}'
    for step in (1, 2, 7, len(body)):
        reader = MultipartReader(FORM_TYPE["Content-Type"])
        pieces = [piece for i in range(0, len(body), step) for piece in reader.feed(body[i : i + step])]
        reader.finish()
        assert [piece.name for piece in pieces if isinstance(piece, PartBegun)] == ["purpose", "file"]
        texts = [piece.block for piece in pieces if isinstance(piece, PartBytes)]
        assert b"".join(texts) == b'batch{"a":1}\r\n--y\r\n{}'


async def test_a_form_that_ends_early_is_refused(http: httpx2.AsyncClient, home: Home) -> None:
    body = (FORM % some(1))[:-8]
    answer = await http.post("/v1/files", content=body, headers=FORM_TYPE)
    assert answer.status_code == 400
    assert "cut short" in answer.json()["error"]["message"]
    assert blobs(home) == []
