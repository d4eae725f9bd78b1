"""How many requests are worked on at once: memory must not follow the number of clients."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

AT_ONCE_MAX: Final = 200


class Turns:
    """The others wait for their turn, and with them their clients: nothing of their bodies is read."""

    def __init__(self, app: ASGIApp, at_once_max: int = AT_ONCE_MAX) -> None:
        self._app = app
        self._free = asyncio.Semaphore(at_once_max)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._free:
            await self._app(scope, receive, send)
