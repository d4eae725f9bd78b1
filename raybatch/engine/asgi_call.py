"""One request to an ASGI application in this process: no socket, no client library, the body as it is.

It refuses to wait for a streamed answer: such a call is disconnected as soon as the answer begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


@dataclass(slots=True)
class AsgiCall:
    """``run`` it once; ``disconnect`` makes the application see its client leave."""

    url: str
    body: bytes
    request_id: str
    status: int = 0  #: 0 until the application answers
    streamed: bool = False
    answer: bytearray = field(default_factory=bytearray)
    _asked: bool = False
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, app: AsgiApp) -> None:
        await app(self._scope(), self._receive, self._send)

    def disconnect(self) -> None:
        self._gone.set()

    def _scope(self) -> Message:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self.url,
            "raw_path": self.url.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [
                (b"host", b"localhost"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(self.body)).encode()),
                (b"x-request-id", self.request_id.encode()),
            ],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 80),
            "state": {},
        }

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            headers = dict(message.get("headers", ()))
            if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
                self.streamed = True
                self.disconnect()
        elif message["type"] == "http.response.body" and not self.streamed:
            self.answer += message.get("body", b"")
