"""The server under test, the stock client in both its forms, and the batches that many tests look at.

The server is the one that ``--url`` (or RAYBATCH_COMPAT_URL) names, else the echo cluster that tests share.
OPENAI_API_KEY is the key it is given; RAYBATCH_COMPAT_MODEL runs the rows, or the first model it lists.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Batch

from tests.compat.both_ways import InLoop
from tests.compat.lines import CHAT, REFUSED, bad_lines, chat, chats, jsonl

ENDED: Final = ("completed", "failed", "expired", "cancelled")
ENDED_MAX_S: Final = 300.0
LOOK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Server:
    url: str  #: without /v1
    key: str
    model: str

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def client_options(self) -> dict[str, Any]:
        """Of the stock client at its strictest, which tells of a refusal at once."""
        return {
            "base_url": self.base_url,
            "api_key": self.key,
            "max_retries": 0,
            "_strict_response_validation": True,
        }


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    given = request.config.getoption("--url")
    url = request.getfixturevalue("shared").url if given is None else str(given)
    url = url.rstrip("/").removesuffix("/v1")
    key = os.environ.get("OPENAI_API_KEY", "unused")
    model = os.environ.get("RAYBATCH_COMPAT_MODEL")
    if model is None:
        answer = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=30.0)
        model = str(answer.raise_for_status().json()["data"][0]["id"])
    return Server(url, key, model)


@pytest.fixture(scope="session")
def sync_client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(**server.client_options) as client:
        yield client


@pytest.fixture(scope="session")
def async_client(server: Server) -> Iterator[InLoop]:
    with asyncio.Runner() as loop:
        client = AsyncOpenAI(**server.client_options)
        yield InLoop(client, loop)
        loop.run(client.close())


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest) -> Any:
    """Either form of the client; the asynchronous one waits for each of its calls."""
    return request.getfixturevalue(f"{request.param}_client")


@pytest.fixture(scope="session")
def submit(sync_client: OpenAI) -> Callable[..., Batch]:
    def submitted(upload: bytes, endpoint: Any = CHAT, **params: Any) -> Batch:
        file = sync_client.files.create(file=("requests.jsonl", upload), purpose="batch")
        return sync_client.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h", **params
        )

    return submitted


def ended(client: Any, batch_id: str) -> Batch:
    """Looks until it has ended, at states that OpenAI's API has alone."""
    deadline_mono = time.monotonic() + ENDED_MAX_S
    while True:
        batch: Batch = client.batches.retrieve(batch_id)
        if batch.status in ENDED:
            return batch
        assert time.monotonic() < deadline_mono, f"{batch_id} is still '{batch.status}'"
        time.sleep(LOOK_S)


@dataclass(frozen=True, slots=True)
class Seen:
    """Batches that ended, for tests that only look."""

    completed: Batch  #: every row answered
    mixed: Batch  #: row-1 and row-3 refused, row-0 and row-2 answered
    all_refused: Batch
    failed: Batch  #: a good line, an empty one, the bad lines, a good one


@pytest.fixture(scope="session")
def seen(server: Server, sync_client: OpenAI, submit: Callable[..., Batch]) -> Seen:
    model = server.model
    rows = [chat(model, f"row-{n}", **(REFUSED if n % 2 else {})) for n in range(4)]
    bad = b"".join(line.content for line in bad_lines(model))
    begun = (
        submit(chats(model, 12), metadata={"for": "the clients' suite"}, output_expires_after=_a_day()),
        submit(jsonl(rows)),
        submit(jsonl(rows[1::2])),
        submit(jsonl([chat(model, "a")]) + b"\n" + bad + jsonl([chat(model, "b")])),
    )
    return Seen(*(ended(sync_client, batch.id) for batch in begun))


def _a_day() -> dict[str, Any]:
    return {"anchor": "created_at", "seconds": 86_400}
