"""How much of a request's body Serve holds: a window.

Serve's proxy takes a body as fast as the client sends it, and the replica fetches it as fast as the proxy has
it, so both would hold whatever the app has not read yet. Here the proxy lets a window of it in, and the
replica says how much the app has read, in a message of the answer that goes no further than the proxy.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

WINDOW_BYTES: Final = 8 << 20
TOLD_BYTES: Final = 1 << 20  #: what the app reads between two messages; shorter bodies need none
EXTENSION: Final = "raybatch.body_window"  #: of a request whose proxy has the window
READ: Final = "raybatch.body_read"


def in_proxy() -> list[Middleware]:
    """What Serve's proxy calls, by ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``, for what goes around it."""
    return [Middleware(ProxyWindow)]


class ProxyWindow:
    """Receives no more while ``WINDOW_BYTES`` have been received that the app is not known to have read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        room = asyncio.Event()
        room.set()
        unread_bytes = 0

        def count(more_bytes: int) -> None:
            nonlocal unread_bytes
            unread_bytes += more_bytes
            if unread_bytes < WINDOW_BYTES:
                room.set()
            else:
                room.clear()

        async def receive_within() -> Message:
            await room.wait()
            message = await receive()
            count(_body_bytes(message))
            return message

        async def send_on(message: Message) -> None:
            if message["type"] == READ:
                count(-message["bytes"])
            else:
                await send(message)

        extensions = {**(scope.get("extensions") or {}), EXTENSION: {}}
        await self._app({**scope, "extensions": extensions}, receive_within, send_on)


class ReplicaWindow:
    """Tells the proxy how much of a body the app has read, where the proxy waits for that."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read_bytes = 0

        async def receive_told() -> Message:
            nonlocal read_bytes
            message = await receive()
            read_bytes += _body_bytes(message)
            if read_bytes >= TOLD_BYTES:
                told_bytes, read_bytes = read_bytes, 0
                await send({"type": READ, "bytes": told_bytes})
            return message

        windowed = EXTENSION in (scope.get("extensions") or {})
        await self._app(scope, receive_told if windowed else receive, send)


def _body_bytes(message: Message) -> int:
    return len(message.get("body", b""))
