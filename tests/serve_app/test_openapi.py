"""The description of the API is true: requests made from it find no fault, no undocumented answer."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi import checks as rules

from raybatch.config import Home, ModelSettings, Settings
from serve_app.app import build_app
from tests.serve_app.local_scheduler import LocalScheduler
from tests.serve_app.requests import CHAT, jsonl, request

URL = "http://127.0.0.1:8420"
HOST = {"Host": "127.0.0.1:8420"}
EXAMPLES = 8
GOOD = {"completion_window": "24h", "error_types": ["invalid_request_error"]}  #: words no chance would find
LINES = [request(f"r{i}", **({"fail": True} if i % 3 == 1 else {})) for i in range(20)]
CHECKS: list[CheckFunction] = [
    schemathesis.checks.not_a_server_error,
    rules.status_code_conformance,
    rules.content_type_conformance,
    rules.response_headers_conformance,
    rules.response_schema_conformance,
    rules.unsupported_method,
]


class World:
    """An app with files, and with batches in every phase of their lives."""

    def __init__(self, home: Home) -> None:
        home.make()
        self.settings = Settings(models=(ModelSettings("org/small", aliases=("small",)),))
        self.scheduler = LocalScheduler(home, self.settings)
        self.app = build_app(home, self.settings, self.scheduler)
        self.batches: list[str] = []
        self.files: list[str] = []
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        transport = httpx2.ASGITransport(self.app)
        async with httpx2.AsyncClient(transport=transport, base_url=URL) as http:
            for rows in (20, 16, 0, None):
                answer = await http.post("/v1/batches", files={"file": ("in.jsonl", jsonl(*LINES))})
                self.batches.append(answer.json()["id"])
                if rows is not None:
                    self.scheduler.run_chores()
                    self.scheduler.run_rows(rows)
            failed = {"input_file_id": "file-none", "endpoint": CHAT, "completion_window": "24h"}
            self.batches.append((await http.post("/v1/batches", json=failed)).json()["id"])
            self.files = [file["id"] for file in (await http.get("/v1/files")).json()["data"]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(Home(tmp_path_factory.mktemp("openapi") / "home"))


@pytest.fixture(scope="module")
def description(world: World) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", world.app, headers=HOST)


def test_what_is_asked_by_the_description_is_answered_by_it(
    description: Any, world: World, subtests: pytest.Subtests
) -> None:
    operations = [found.ok() for found in description.get_all_operations()]  # an event stream would not end
    operations = [operation for operation in operations if not operation.path.endswith("/events")]
    for operation in sorted(operations, key=lambda operation: operation.method == "delete"):
        takes_more = bool(operation.query or operation.body)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)[: 1 + takes_more]:
            with subtests.test(f"{operation.label}, {mode.value} data"):
                ask(operation, mode, world)


def ask(operation: Any, mode: GenerationMode, world: World) -> None:
    known = {"batch_id": world.batches, "file_id": world.files, "name": ["small"]}
    names = [name for name in known if f"{{{name}}}" in operation.path]

    @seed(1)
    @settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode), place=st.integers(0, 9))
    def ask(case: Any, place: int) -> None:
        for name in names:
            if place < len(known[name]):  # a made-up one is hardly ever known
                case.path_parameters[name] = known[name][place]
        has_json = case.media_type == "application/json" and isinstance(case.body, dict)
        if mode is GenerationMode.POSITIVE and has_json and place % 2:
            case.body |= {name: text for name, text in GOOD.items() if name in case.body}
        if operation.path.startswith("/v1/comparisons") and place % 2 and mode is GenerationMode.POSITIVE:
            case.query |= {"batch_id": world.batches[:2]}
        if operation.path.endswith("/content") and place % 2:
            case.headers = {"Range": f"bytes={place}-"}
        case.call_and_validate(checks=CHECKS, headers=HOST)

    ask()
