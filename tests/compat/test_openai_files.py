"""Files, with the stock Python client at its strictest: each test with the plain and the asynchronous one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types import Batch, FileObject

from tests.compat.conftest import Seen, Server
from tests.compat.lines import chats

pytestmark = pytest.mark.cluster

NO_FILE = "file-000000000000000000000000"


@pytest.fixture
def upload(server: Server) -> bytes:
    return chats(server.model, 3)


def create(client: Any, upload: bytes, **params: Any) -> FileObject:
    file: FileObject = client.files.create(file=("requests.jsonl", upload), purpose="batch", **params)
    return file


def test_an_upload_is_processed_at_once_and_described(client: Any, upload: bytes) -> None:
    file = create(client, upload)
    assert file.id.startswith("file-")
    assert (file.object, file.status, file.purpose) == ("file", "processed", "batch")
    assert (file.bytes, file.filename) == (len(upload), "requests.jsonl")
    assert client.files.retrieve(file.id) == file


def test_wait_for_processing_has_nothing_to_wait_for(client: Any, upload: bytes) -> None:
    file = create(client, upload)
    assert client.files.wait_for_processing(file.id, max_wait_seconds=1).status == "processed"


def test_the_content_is_the_bytes_that_were_sent(client: Any, upload: bytes) -> None:
    odd = upload.replace(b"Say", "Sag \u00e9\u2028\U0001f642".encode()).rstrip(b"\n")
    assert client.files.content(create(client, odd).id).content == odd


def test_the_content_can_be_streamed(sync_client: OpenAI, upload: bytes) -> None:
    file = create(sync_client, upload)
    with sync_client.files.with_streaming_response.content(file.id) as response:
        assert b"".join(response.iter_bytes(chunk_size=10)) == upload


async def test_the_content_can_be_streamed_asynchronously(server: Server, upload: bytes) -> None:
    async with AsyncOpenAI(**server.client_options) as client:
        file = await client.files.create(file=("requests.jsonl", upload), purpose="batch")
        async with client.files.with_streaming_response.content(file.id) as response:
            assert b"".join([block async for block in response.iter_bytes(chunk_size=10)]) == upload


def test_a_file_expires_so_long_after_its_creation(client: Any, upload: bytes) -> None:
    file = create(client, upload, expires_after={"anchor": "created_at", "seconds": 3_600})
    assert file.expires_at == file.created_at + 3_600


@pytest.mark.parametrize("seconds", [3_599, 2_592_001])
def test_an_expiry_out_of_bounds_is_refused(client: Any, upload: bytes, seconds: int) -> None:
    with pytest.raises(BadRequestError) as refused:
        create(client, upload, expires_after={"anchor": "created_at", "seconds": seconds})
    assert refused.value.param == "expires_after.seconds"
    assert str(seconds) in str(refused.value)


def test_files_are_listed_page_by_page_newest_first(client: Any, upload: bytes) -> None:
    made = [create(client, upload).id for _ in range(3)]
    listed = _until_found(client.files.list(limit=1, purpose="batch"), made[0])
    assert [file_id for file_id in listed if file_id in made] == made[::-1]


def test_files_are_listed_oldest_first_after_one_that_is_named(client: Any, upload: bytes) -> None:
    made = [create(client, upload).id for _ in range(3)]
    listed = _until_found(client.files.list(after=made[0], limit=1, order="asc"), made[-1])
    assert [file_id for file_id in listed if file_id in made] == made[1:]


def test_a_page_says_whether_another_one_follows(client: Any, upload: bytes) -> None:
    made = [create(client, upload).id for _ in range(2)]
    first = client.files.list(limit=1)
    assert (len(first.data), first.has_more) == (1, True)
    last = client.files.list(after=made[0], order="asc")
    assert (made[1] in [file.id for file in last.data], last.has_more) == (True, False)


def test_files_are_listed_by_purpose(client: Any, seen: Seen, upload: bytes) -> None:
    file = create(client, upload)
    outputs = client.files.list(purpose="batch_output", limit=10_000).data
    assert {file.purpose for file in outputs} == {"batch_output"}
    assert seen.completed.output_file_id in [file.id for file in outputs]
    assert file.id in [file.id for file in client.files.list(purpose="batch", limit=10_000).data]


@pytest.mark.parametrize("limit", [0, 10_001])
def test_a_limit_out_of_bounds_is_refused(client: Any, limit: int) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.files.list(limit=limit)
    assert refused.value.param == "limit"


def test_a_deleted_file_is_gone(client: Any, upload: bytes) -> None:
    file = create(client, upload)
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    with pytest.raises(NotFoundError):
        client.files.retrieve(file.id)


def test_the_input_of_a_batch_can_be_deleted(
    client: Any, submit: Callable[..., Batch], upload: bytes
) -> None:
    assert client.files.delete(submit(upload).input_file_id).deleted


@pytest.mark.parametrize("call", ["retrieve", "content", "delete"])
def test_an_unknown_file_is_named_in_a_404(client: Any, call: str) -> None:
    with pytest.raises(NotFoundError) as refused:
        getattr(client.files, call)(NO_FILE)
    assert refused.value.body == {
        "message": f"No such File object: {NO_FILE}",
        "type": "invalid_request_error",
        "param": "id",
        "code": None,
    }


@pytest.mark.parametrize("content", [b"", b"\n\n", b"custom_id,body\n", b"\x89PNG\r\n"])
def test_what_is_not_jsonl_is_refused(client: Any, content: bytes) -> None:
    with pytest.raises(BadRequestError, match=r"Invalid file format for Batch API\. Must be \.jsonl"):
        create(client, content)


def test_bad_lines_after_a_good_one_are_left_to_the_batch(client: Any, upload: bytes) -> None:
    assert create(client, upload + b"{not json\n").status == "processed"


def test_another_purpose_is_refused_by_name(client: Any, upload: bytes) -> None:
    with pytest.raises(BadRequestError, match="fine-tune") as refused:
        client.files.create(file=("requests.jsonl", upload), purpose="fine-tune")
    assert refused.value.param == "purpose"


def test_output_and_error_files_are_files_as_any_other(client: Any, seen: Seen) -> None:
    for file_id in (seen.mixed.output_file_id, seen.mixed.error_file_id):
        file = client.files.retrieve(file_id)
        assert (file.object, file.status, file.purpose) == ("file", "processed", "batch_output")
        assert file.filename.endswith(".jsonl")
        assert file.bytes == len(client.files.content(file_id).content)


def test_an_output_file_expires_as_its_batch_was_told(client: Any, seen: Seen) -> None:
    file = client.files.retrieve(seen.completed.output_file_id)
    assert file.expires_at == file.created_at + 86_400


def test_every_answer_has_a_request_id(client: Any) -> None:
    answered = client.files.with_raw_response.list(limit=1)
    assert answered.headers["x-request-id"]
    with pytest.raises(NotFoundError) as refused:
        client.files.retrieve(NO_FILE)
    assert refused.value.request_id not in (None, answered.headers["x-request-id"])


@pytest.mark.parametrize(("method", "path", "status"), [("get", "/nothing", 404), ("patch", "/files", 405)])
def test_a_wrong_address_gets_the_same_envelope(client: Any, method: str, path: str, status: int) -> None:
    with pytest.raises(APIStatusError) as refused:
        getattr(client, method)(path, cast_to=object)
    assert refused.value.status_code == status
    assert refused.value.type == "invalid_request_error"
    assert set(refused.value.body) == {"message", "type", "param", "code"}  # type: ignore[call-overload]


def _until_found(pages: Any, last: str) -> list[str]:
    listed: list[str] = []
    for file in pages:
        listed.append(file.id)
        if file.id == last:
            break
    return listed
