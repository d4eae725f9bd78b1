"""LiteLLM against a server, as its users call it: `custom_llm_provider="openai"` and our URL as `api_base`.

Runs in the Python of `.cache/clients`, without anything of this repository; says what passed in TAP.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
import traceback
from typing import Any

import litellm

BASE_URL, KEY, MODEL = (os.environ[f"COMPAT_{name}"] for name in ("BASE_URL", "KEY", "MODEL"))
TO_US: dict[str, Any] = {"custom_llm_provider": "openai", "api_base": BASE_URL, "api_key": KEY}
ENDPOINT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
ENDED_MAX_S = 240.0


def upload(rows: int) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
    lines = (
        {"custom_id": f"row-{rows - number}", "method": "POST", "url": ENDPOINT, "body": body}
        for number in range(rows)
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def test_a_batch_completes_in_input_order() -> None:
    file = litellm.create_file(file=("requests.jsonl", upload(5)), purpose="batch", **TO_US)
    assert file.status == "processed"
    batch = litellm.create_batch(
        completion_window="24h", endpoint=ENDPOINT, input_file_id=file.id, metadata={"k": "v"}, **TO_US
    )
    deadline_mono = time.monotonic() + ENDED_MAX_S
    while batch.status not in ENDED and time.monotonic() < deadline_mono:
        time.sleep(0.1)
        batch = litellm.retrieve_batch(batch_id=batch.id, **TO_US)
    assert (batch.status, batch.metadata) == ("completed", {"k": "v"})
    content = litellm.file_content(file_id=batch.output_file_id, **TO_US).content
    assert [json.loads(line)["custom_id"] for line in content.splitlines()] == [
        f"row-{number}" for number in (5, 4, 3, 2, 1)
    ]


async def test_a_batch_completes_asynchronously() -> None:
    file = await litellm.acreate_file(file=("requests.jsonl", upload(5)), purpose="batch", **TO_US)
    batch = await litellm.acreate_batch(
        completion_window="24h", endpoint=ENDPOINT, input_file_id=file.id, **TO_US
    )
    deadline_mono = time.monotonic() + ENDED_MAX_S
    while batch.status not in ENDED and time.monotonic() < deadline_mono:
        await asyncio.sleep(0.1)
        batch = await litellm.aretrieve_batch(batch_id=batch.id, **TO_US)
    assert (batch.status, batch.request_counts.completed) == ("completed", 5)
    answered = await litellm.afile_content(file_id=batch.output_file_id, **TO_US)
    assert len(answered.content.splitlines()) == 5


def test_files_are_retrieved_listed_and_deleted() -> None:
    file = litellm.create_file(file=("requests.jsonl", upload(1)), purpose="batch", **TO_US)
    assert litellm.file_retrieve(file_id=file.id, **TO_US).filename == "requests.jsonl"
    assert file.id in [one.id for one in litellm.file_list(purpose="batch", **TO_US)]
    assert litellm.file_delete(file_id=file.id, **TO_US).deleted


def test_a_batch_is_listed_and_cancelled() -> None:
    file = litellm.create_file(file=("requests.jsonl", upload(1000)), purpose="batch", **TO_US)
    batch = litellm.create_batch(completion_window="24h", endpoint=ENDPOINT, input_file_id=file.id, **TO_US)
    assert batch.id in [one.id for one in litellm.list_batches(limit=20, **TO_US).data]
    assert litellm.cancel_batch(batch_id=batch.id, **TO_US).status == "cancelling"


def test_a_refusal_keeps_our_words() -> None:
    said = ""
    try:
        litellm.create_file(file=("requests.jsonl", b"no json\n"), purpose="batch", **TO_US)
    except Exception as refused:  # which class it is differs between its versions
        said = str(refused)
    assert "Must be .jsonl" in said


async def test_the_router_runs_a_batch_on_the_model_it_knows() -> None:
    deployment = {
        "model_name": "ours",
        "litellm_params": {"model": f"openai/{MODEL}", "api_base": BASE_URL, "api_key": KEY},
    }
    router = litellm.Router(model_list=[deployment])
    file = await router.acreate_file(model="ours", file=("requests.jsonl", upload(2)), purpose="batch")
    batch = await router.acreate_batch(
        model="ours", completion_window="24h", endpoint=ENDPOINT, input_file_id=file.id
    )
    assert batch.id.startswith("batch_")


def _run_all() -> None:
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    for number, (name, test) in enumerate(tests, 1):
        try:
            asyncio.run(test()) if inspect.iscoroutinefunction(test) else test()
            print(f"ok {number} - {name}", flush=True)
        except Exception:
            print(f"{traceback.format_exc()}\nnot ok {number} - {name}", flush=True)


if __name__ == "__main__":
    _run_all()
