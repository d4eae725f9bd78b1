"""The API's server: uvicorn, in an event loop that runs already, on a socket that was opened elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

KEEP_ALIVE_S: Final = 90  #: longer than clients wait between two looks at a batch


class HttpServer(uvicorn.Server):
    """Made within the event loop that it is to run in; it begins at once."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                access_log=False,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        self._listens = asyncio.Event()
        self._serving = asyncio.get_running_loop().create_task(self.serve([listener]))

    async def check(self) -> None:
        """Returns once it listens. Raises RuntimeError when it has ended."""
        listens = asyncio.ensure_future(self._listens.wait())
        await asyncio.wait((listens, self._serving), return_when=asyncio.FIRST_COMPLETED)
        listens.cancel()
        if self._serving.done():
            raise RuntimeError("the API's server has ended") from self._serving.exception()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are for Ray's worker."""
        yield
