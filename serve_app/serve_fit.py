"""Makes good what a Serve replica does with an app's answer.

Its proxy adds the request id's header by itself: with the app's own it would be there twice. And its ``send``
never waits: a download would be queued in memory as fast as the disk gives it, 500 MB for a file of 300.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.answers import REQUEST_ID_HEADER

PIECES_QUEUED_MAX = 4  #: of one answer, each of about 1 MiB


class FitForServe:
    """A mark goes after every piece; at most ``PIECES_QUEUED_MAX`` pieces wait whose marks were not taken."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        room = asyncio.Semaphore(PIECES_QUEUED_MAX)
        loop = asyncio.get_running_loop()

        async def send_paced(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[REQUEST_ID_HEADER]
            if not message.get("more_body"):
                await send(message)
                return
            await room.acquire()
            await send(message)
            mark = _Mark()
            mark.taken = partial(loop.call_soon_threadsafe, room.release)
            await send({"type": "http.response.body", "body": mark, "more_body": True})

        await self._app(scope, receive, send_paced)


class _Mark(bytes):
    """An empty piece that notices when Serve takes it off the queue, for Serve then pickles it."""

    taken: Callable[[], object]

    def __reduce__(self) -> tuple[type[bytes], tuple[()]]:
        self.taken()
        return bytes, ()
