"""Completion windows other than OpenAI's 24h: only what the operator offers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from httpx2 import AsyncClient

from tests.serve_app.conftest import MakeHttp
from tests.serve_app.requests import CHAT, some


async def create(http: AsyncClient, window: str) -> tuple[int, Any]:
    file = (
        await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", some(1))})
    ).json()
    asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": window}
    answer = await http.post("/v1/batches", content=json.dumps(asked))
    return answer.status_code, answer.json()


@pytest.mark.parametrize("window", ["1h", "48h", ""])
async def test_a_window_that_is_not_offered_is_refused_naming_those_that_are(
    http: AsyncClient, window: str
) -> None:
    status, answer = await create(http, window)
    assert (status, answer["error"]["param"]) == (400, "completion_window")
    assert answer["error"]["message"] == f"Invalid value: '{window}'. Supported values are: '24h'."


async def test_a_window_on_offer_says_when_the_batch_expires(make_http: MakeHttp) -> None:
    http = make_http(completion_windows=("2h", "7d"))
    for window, window_s in (("2h", 7_200), ("7d", 604_800)):
        status, batch = await create(http, window)
        assert (status, batch["completion_window"]) == (200, window)
        assert batch["expires_at"] == batch["created_at"] + window_s
    assert (await create(http, "24h"))[0] == 400
    form = await http.post("/v1/batches", files={"file": ("a.jsonl", some(1))})
    assert form.json()["completion_window"] == "2h"
