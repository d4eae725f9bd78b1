"""Which batches ran over the same questions: by what is asked, not by which file or which model."""

from __future__ import annotations

from typing import Any

import httpx2

from raybatch.config import Home
from tests.serve_app.local_scheduler import LocalScheduler
from tests.serve_app.requests import jsonl, request


async def submit(http: httpx2.AsyncClient, scheduler: LocalScheduler, content: bytes) -> str:
    created = await http.post("/v1/batches", files={"file": ("in.jsonl", content)})
    scheduler.run_chores()
    return str(created.json()["id"])


def asking(model: str, *texts: str, **more: Any) -> bytes:
    return jsonl(
        *(
            request(f"r{i}", model=model, messages=[{"role": "user", "content": text}], **more)
            for i, text in enumerate(texts)
        )
    )


async def datasets(http: httpx2.AsyncClient) -> list[set[str]]:
    answer = await http.get("/v1/datasets")
    assert answer.status_code == 200, answer.text
    return [set(found["batch_ids"]) for found in answer.json()["data"]]


async def test_the_same_questions_to_two_models_are_one_dataset(
    http: httpx2.AsyncClient, scheduler: LocalScheduler
) -> None:
    assert await datasets(http) == []
    first = await submit(http, scheduler, asking("small", "one", "two"))
    assert await datasets(http) == []
    again = await submit(http, scheduler, asking("small", "one", "two").rstrip())
    other_model = await submit(http, scheduler, asking("other", "one", "two"))
    await submit(http, scheduler, asking("small", "one", "three"))
    await submit(http, scheduler, asking("small", "one", "two", temperature=1))
    await submit(http, scheduler, asking("small", 'one "model": "small"', "two"))
    await submit(http, scheduler, asking("small", 'one "model": "other"', "two"))
    pair = {await submit(http, scheduler, asking(model, "alone")) for model in ("small", "other")}
    assert await datasets(http) == [pair, {first, again, other_model}]
    found = (await http.get("/v1/datasets")).json()["data"]
    assert [one["requests"] for one in found] == [1, 2]
    assert len({one["id"] for one in found}) == 2
    assert (await http.get("/v1/datasets", params={"limit": 1})).json()["data"] == []


async def test_an_input_that_is_gone_is_in_no_dataset(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, home: Home
) -> None:
    content = asking("small", "one")
    batches = [await submit(http, scheduler, content) for _ in range(3)]
    gone = (await http.get(f"/v1/batches/{batches[1]}")).json()["input_file_id"]
    (home.files / gone).unlink()
    assert await datasets(http) == [{batches[0], batches[2]}]
