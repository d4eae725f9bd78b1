"""A file of requests becomes a batch, through OpenAI's own client.

Refuses to read more of the file than its first request: the server checks every line.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from raybatch.actors.connection import Connection
from raybatch.errors import OperatorError

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
SHOWN_BYTES_MAX: Final = 80


def create(
    connection: Connection, path: Path, name: str, endpoint: str, metadata: dict[str, str], priority: int = 0
) -> str:
    """Upload the file under ``name`` and create; the new batch's id. Raises as the connection does."""
    extra: dict[str, Any] = {"priority": priority} if priority else {}
    with connection.stock_client() as client, _opened(path) as file:
        uploaded = client.files.create(file=(name, file), purpose="batch")
        batch = client.batches.create(
            input_file_id=uploaded.id,
            endpoint=endpoint,  # type: ignore[arg-type]  # the server says which ones it serves
            completion_window="24h",
            metadata=metadata or None,
            extra_body=extra,
        )
    return batch.id


def first_endpoint(path: Path) -> str:
    """The first request's ``url``: all lines of a batch share it. Raises OperatorError showing the line."""
    with _opened(path) as file:
        first = next((line for line in file if line.strip()), b"")
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
