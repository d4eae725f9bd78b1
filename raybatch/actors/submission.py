"""A file of requests becomes a batch, through OpenAI's own client.

A large one goes in parts, so that neither side holds much of it at once. Refuses to look at more of the file
than its first request: the server checks every line.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec

from raybatch.actors.connection import Connection
from raybatch.errors import OperatorError
from raybatch.wire.jsonl import BYTE_ORDER_MARK

if TYPE_CHECKING:
    import openai

SHOWN_BYTES_MAX: Final = 80
LINE_BYTES_MAX: Final = 16 << 20  #: looked at to find the first request
WHOLE_BYTES_MAX: Final = 64 << 20  #: a larger file goes in parts
PART_BYTES: Final = 16 << 20  #: held by this process
STEP_RETRIES: Final = 8  #: of the stock client, half a minute in all: a replica that died is back by then
GIVE_UP_MAX_S: Final = 5.0  #: to tell the server that nothing more will come

Sent = Callable[[int, int], object]  #: told the bytes sent so far, and of the whole file


def create(
    connection: Connection,
    path: Path,
    name: str,
    endpoint: str,
    metadata: dict[str, str],
    priority: int = 0,
    relaxed: bool | None = None,
    sent: Sent | None = None,
) -> str:
    """Upload the file under ``name`` and create; the new batch's id. Raises as the connection does.

    ``relaxed``: bad lines fail alone, and lines may name several models; the server's own choice when not
    given. ``sent``: called after each part of a large file.
    """
    extra: dict[str, Any] = {"priority": priority} if priority else {}
    if relaxed is not None:
        extra["validation"] = "relaxed" if relaxed else "strict"
    with connection.stock_client() as client, _opened(path) as file:
        batch = client.batches.create(
            input_file_id=_uploaded(client, file, name, sent),
            endpoint=endpoint,  # type: ignore[arg-type]  # the server says which ones it serves
            completion_window="24h",
            metadata=metadata or None,
            extra_body=extra,
        )
    return batch.id


def first_endpoint(path: Path) -> str:
    """The first request's ``url``: all lines of a batch share it. Raises OperatorError showing the line."""
    with _opened(path) as file:
        lines = iter(lambda: file.readline(LINE_BYTES_MAX), b"")
        first = next((line for line in lines if line.strip()), b"")
    try:
        found = msgspec.json.decode(first.removeprefix(BYTE_ORDER_MARK))["url"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        found = None
    if not isinstance(found, str):
        shown = first[:SHOWN_BYTES_MAX].decode(errors="replace").strip()
        raise OperatorError(
            f"the first line is no request that names its url; found: {shown!r}. Expected lines such as"
            ' {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}};'
            " or name the endpoint with --endpoint"
        )
    return found


def metadata_pairs(words: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` words. Raises OperatorError naming the one that is none."""
    return dict(_pair(word) for word in words)


def _uploaded(client: openai.OpenAI, file: BinaryIO, name: str, sent: Sent | None) -> str:
    size_bytes = os.fstat(file.fileno()).st_size
    if size_bytes <= WHOLE_BYTES_MAX:
        return client.files.create(file=(name, file), purpose="batch").id
    patient = client.with_options(max_retries=STEP_RETRIES)  # each step may be asked again
    upload = patient.uploads.create(
        bytes=size_bytes, filename=name, mime_type="application/jsonl", purpose="batch"
    )
    try:
        return _in_parts(patient, upload.id, file, size_bytes, sent)
    except BaseException:
        with suppress(Exception):  # what went wrong first is what is told
            client.with_options(max_retries=0, timeout=GIVE_UP_MAX_S).uploads.cancel(upload.id)
        raise


def _in_parts(
    client: openai.OpenAI, upload_id: str, file: BinaryIO, size_bytes: int, sent: Sent | None
) -> str:
    part_ids: list[str] = []
    md5 = hashlib.md5(usedforsecurity=False)
    while part := file.read(PART_BYTES):
        part_ids.append(client.uploads.parts.create(upload_id, data=part).id)
        md5.update(part)
        if sent is not None:
            sent(min(len(part_ids) * PART_BYTES, size_bytes), size_bytes)
    completed = client.uploads.complete(upload_id, part_ids=part_ids, md5=md5.hexdigest())
    assert completed.file is not None
    return completed.file.id


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise OperatorError(f"--metadata takes KEY=VALUE, not '{word}'")
    return key, value


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise OperatorError(
            f"cannot read {path} from {Path.cwd()} ({error.strerror}): in a Ray job give it an absolute path,"
            " for that starts where `raybatch up` was run"
        ) from None
