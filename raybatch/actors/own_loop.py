"""An event loop on a thread of its own, so that an actor lives from its start, not from its first call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class OwnLoop:
    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name=name, daemon=True).start()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await ``coroutine``, run on this loop, from another loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def soon(self, call: Any, *args: Any) -> None:
        self._loop.call_soon_threadsafe(call, *args)
