"""Uploads in parts, with the stock Python client at its strictest: each test with both forms of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import pytest
from openai import BadRequestError, NotFoundError
from openai.types import Upload

from tests.compat.conftest import Server, ended
from tests.compat.lines import CHAT, chats

pytestmark = pytest.mark.cluster

NO_UPLOAD: Final = "upload_00000000000000000000000000000000"
HOUR_S: Final = 3_600
GIB: Final = 1 << 30


@pytest.fixture
def content(server: Server) -> bytes:
    return chats(server.model, 6)


def begin(client: Any, size_bytes: int, **params: Any) -> Upload:
    upload: Upload = client.uploads.create(
        purpose="batch", filename="large.jsonl", mime_type="application/jsonl", bytes=size_bytes, **params
    )
    return upload


def add(client: Any, upload: Upload, data: bytes) -> str:
    part_id: str = client.uploads.parts.create(upload.id, data=data).id
    return part_id


def test_a_new_upload_is_pending_for_an_hour(client: Any) -> None:
    upload = begin(client, 1_000)
    assert upload.id.startswith("upload_")
    assert (upload.object, upload.status, upload.file) == ("upload", "pending", None)
    assert (upload.bytes, upload.filename, upload.purpose) == (1_000, "large.jsonl", "batch")
    assert upload.expires_at == upload.created_at + HOUR_S


def test_parts_become_a_file_in_the_order_that_complete_gives(client: Any, content: bytes) -> None:
    upload = begin(client, len(content))
    last = client.uploads.parts.create(upload.id, data=content[500:])
    first = client.uploads.parts.create(upload.id, data=content[:500])
    assert (first.id.startswith("part_"), first.object, first.upload_id) == (True, "upload.part", upload.id)
    md5 = hashlib.md5(content).hexdigest()
    done = client.uploads.complete(upload.id, part_ids=[first.id, last.id], md5=md5)
    assert (done.id, done.status) == (upload.id, "completed")
    assert (done.file.status, done.file.bytes, done.file.purpose) == ("processed", len(content), "batch")
    assert client.files.retrieve(done.file.id) == done.file
    assert client.files.content(done.file.id).content == content


def test_a_file_on_disk_goes_up_in_chunks_and_runs(client: Any, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(content)
    upload = client.uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="batch", part_size=400
    )
    assert (upload.status, upload.file.filename) == ("completed", "large.jsonl")
    batch = client.batches.create(input_file_id=upload.file.id, endpoint=CHAT, completion_window="24h")
    assert ended(client, batch.id).request_counts.completed == 6


def test_bytes_in_memory_go_up_in_chunks(client: Any, content: bytes) -> None:
    upload = client.uploads.upload_file_chunked(
        file=content,
        filename="large.jsonl",
        bytes=len(content),
        mime_type="application/jsonl",
        purpose="batch",
        part_size=700,
    )
    assert client.files.content(upload.file.id).content == content


def test_the_file_of_an_upload_expires_as_it_was_told(client: Any, content: bytes) -> None:
    upload = begin(client, len(content), expires_after={"anchor": "created_at", "seconds": 7_200})
    file = client.uploads.complete(upload.id, part_ids=[add(client, upload, content)]).file
    assert file.expires_at == file.created_at + 7_200


def test_a_cancelled_upload_takes_no_more(client: Any, content: bytes) -> None:
    upload = begin(client, len(content))
    part_id = add(client, upload, content)
    assert client.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(BadRequestError, match="cancelled"):
        add(client, upload, content)
    with pytest.raises(BadRequestError, match="cancelled"):
        client.uploads.complete(upload.id, part_ids=[part_id])


@pytest.mark.parametrize("declared_more_bytes", [1, -1])
def test_parts_of_another_size_than_declared_are_refused(
    client: Any, content: bytes, declared_more_bytes: int
) -> None:
    upload = begin(client, len(content) + declared_more_bytes)
    with pytest.raises(BadRequestError, match=f"{len(content):,}"):
        client.uploads.complete(upload.id, part_ids=[add(client, upload, content)])


def test_another_md5_is_refused_and_the_right_one_completes_then(client: Any, content: bytes) -> None:
    upload = begin(client, len(content))
    part_id = add(client, upload, content)
    with pytest.raises(BadRequestError, match="md5"):
        client.uploads.complete(upload.id, part_ids=[part_id], md5="0" * 32)
    md5 = hashlib.md5(content).hexdigest()
    assert client.uploads.complete(upload.id, part_ids=[part_id], md5=md5).status == "completed"


def test_a_part_that_is_unknown_is_named(client: Any, content: bytes) -> None:
    upload = begin(client, len(content))
    add(client, upload, content)
    with pytest.raises(BadRequestError, match="part_nowhere"):
        client.uploads.complete(upload.id, part_ids=["part_nowhere"])


@pytest.mark.parametrize("size_bytes", [0, 8 * GIB + 1])
def test_a_size_out_of_bounds_is_refused(client: Any, size_bytes: int) -> None:
    with pytest.raises(BadRequestError) as refused:
        begin(client, size_bytes)
    assert refused.value.param == "bytes"


def test_what_is_not_jsonl_is_refused_when_it_is_whole(client: Any) -> None:
    content = b"custom_id,body\n"
    upload = begin(client, len(content))
    with pytest.raises(BadRequestError, match=r"Must be \.jsonl"):
        client.uploads.complete(upload.id, part_ids=[add(client, upload, content)])


def test_an_unknown_upload_is_a_404(client: Any) -> None:
    for call in (
        lambda: client.uploads.parts.create(NO_UPLOAD, data=b"x"),
        lambda: client.uploads.complete(NO_UPLOAD, part_ids=["part_x"]),
        lambda: client.uploads.cancel(NO_UPLOAD),
    ):
        with pytest.raises(NotFoundError, match=NO_UPLOAD):
            call()
