"""The steps of a large upload, as the stock client takes them."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import FileObject, Upload

from raybatch.config import Home
from tests.serve_app.requests import some

CONTENT = b"\xef\xbb\xbf\r\n" + some(40) + b"\n  \nnot json\n" + some(2)
LINES = 43


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


async def sent_in_turn(
    client: AsyncOpenAI, upload: Upload, content: bytes = CONTENT, pieces: int = 3
) -> list[str]:
    """As the stock client's ``upload_file_chunked`` does."""
    step = -(-len(content) // pieces)
    return [
        (await client.uploads.parts.create(upload.id, data=content[start : start + step])).id
        for start in range(0, len(content), step)
    ]


async def content_of(client: AsyncOpenAI, file: FileObject | None) -> bytes:
    assert file is not None
    return (await client.files.content(file.id)).content


def parts_left(home: Home) -> set[str]:
    """Their ids, in whatever files they lie."""
    return {path.name.split(".")[0] for path in home.uploads.glob("*/part_*")}


def message(refused: pytest.ExceptionInfo[openai.APIStatusError]) -> str:
    assert isinstance(refused.value.body, dict)
    return str(refused.value.body["message"])
