"""Pages of a real browser, each with a record of what it asked for and what went wrong in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from raybatch.config import Home, ModelSettings, Settings
from tests.console.browsers import chromium
from tests.console.world import World, serving

WAIT_MS = 60_000  #: on a busy machine; what is there at once costs nothing
MODEL = "echo"
OTHER = "echo-2"

OpenPage = Callable[[str], Page]

expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def faults() -> list[str]:
    """What the pages of a test complained of; a test that expects some clears it."""
    return []


@pytest.fixture
def asked() -> list[str]:
    """The addresses that pages asked for."""
    return []


@pytest.fixture
def open_page(browser: Browser, faults: list[str], asked: list[str]) -> Iterator[OpenPage]:
    contexts = []

    def open_page(url: str) -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 860}, locale="en-GB")
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(
        Home(tmp_path / "home"), Settings(models=(ModelSettings(MODEL), ModelSettings(OTHER)))
    ) as found:
        yield found


@pytest.fixture
def console(world: World, open_page: OpenPage, faults: list[str], asked: list[str]) -> Iterator[Page]:
    """The front page. Whatever the test does in it: no fault, and no request to anybody else."""
    yield open_page(world.url)
    assert faults == []
    assert [url for url in asked if not url.startswith((world.url, "blob:", "about:"))] == []
