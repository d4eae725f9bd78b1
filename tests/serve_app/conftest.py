from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from openai import AsyncOpenAI

from raybatch.config import ApiSettings, Home, ModelSettings, Settings
from raybatch.storage.uploads import UploadStore
from serve_app.app import build_app
from tests.serve_app.local_scheduler import LocalScheduler

MODELS = (ModelSettings("org/small", aliases=("small",)), ModelSettings("other"))
BASE_URL = "http://127.0.0.1:8420"

MakeHttp = Callable[..., httpx2.AsyncClient]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    (home.run / "admin_token").write_text("the-admin-token\n")
    return home


@pytest.fixture
def settings() -> Settings:
    return Settings(models=MODELS)


@pytest.fixture
def scheduler(home: Home, settings: Settings) -> LocalScheduler:
    return LocalScheduler(home, settings)


@pytest.fixture
async def make_http(home: Home, settings: Settings, scheduler: LocalScheduler) -> AsyncIterator[MakeHttp]:
    """A plain HTTP client to an app with some API settings changed."""
    opened: list[httpx2.AsyncClient] = []

    def make(**api: object) -> httpx2.AsyncClient:
        changed = replace(settings, api=replace(ApiSettings(), **api))  # type: ignore[arg-type]
        transport = httpx2.ASGITransport(build_app(home, changed, scheduler))
        opened.append(httpx2.AsyncClient(transport=transport, base_url=BASE_URL))
        return opened[-1]

    yield make
    for client in opened:
        await client.aclose()


@pytest.fixture
def http(make_http: MakeHttp) -> httpx2.AsyncClient:
    return make_http()


@pytest.fixture
def client(http: httpx2.AsyncClient) -> AsyncOpenAI:
    """The stock client, at its strictest, that tells of a refusal at once."""
    return AsyncOpenAI(
        api_key="any",
        base_url=f"{BASE_URL}/v1",
        http_client=http,
        max_retries=0,
        _strict_response_validation=True,
    )


@pytest.fixture
def store(home: Home) -> UploadStore:
    return UploadStore(home.uploads)
