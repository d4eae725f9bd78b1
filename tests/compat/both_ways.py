"""The asynchronous client, called as the synchronous one is, so that one test is run with both.

Each call waits on a loop of this object's own; a page gives its items as plain iteration does.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any


class InLoop:
    def __init__(self, wrapped: Any, loop: asyncio.Runner) -> None:
        self._wrapped = wrapped
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wrapped, name)
        return InLoop(found, self._loop) if callable(found) or _is_resource(found) else found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        answer = self._wrapped(*args, **kwargs)
        if inspect.isawaitable(answer):
            answer = self._loop.run(_awaited(answer))
        return _Pages(answer, self._loop) if hasattr(answer, "__aiter__") else answer


class _Pages:
    """A first page, whose iteration asks for the others."""

    def __init__(self, page: Any, loop: asyncio.Runner) -> None:
        self._page = page
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._page, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loop.run(_listed(self._page)))


async def _awaited(answer: Any) -> Any:
    return await answer


async def _listed(page: Any) -> list[Any]:
    return [item async for item in page]


def _is_resource(found: Any) -> bool:
    return type(found).__module__.startswith("openai.")
