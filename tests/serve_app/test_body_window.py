"""The window of a request's body, against stand-ins for Serve's eager proxy and replica."""

from __future__ import annotations

import asyncio
import pickle

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.body_window import WINDOW_BYTES, ProxyWindow, ReplicaWindow

CHUNK_BYTES = 64 << 10
CHUNKS = 400
SCOPE: Scope = {"type": "http", "method": "POST", "headers": []}


class Client:
    """Sends its body as fast as it is taken."""

    def __init__(self, chunks: int) -> None:
        self.sent = 0
        self._chunks = chunks
        self.answer: list[Message] = []

    async def receive(self) -> Message:
        self.sent += 1
        return {"type": "http.request", "body": b"x" * CHUNK_BYTES, "more_body": self.sent < self._chunks}

    async def send(self, message: Message) -> None:
        self.answer.append(message)


class EagerServe:
    """Between proxy and replica: takes a body as fast as it comes, whoever reads it; all of it is pickled."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.held: asyncio.Queue[Message] = asyncio.Queue()
        self.held_most = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fetching = asyncio.create_task(self._fetch(receive))
        try:
            await self._app(pickle.loads(pickle.dumps(scope)), self.held.get, send)
        finally:
            fetching.cancel()

    async def _fetch(self, receive: Receive) -> None:
        while True:
            message = await receive()
            self.held.put_nowait(message)
            self.held_most = max(self.held_most, self.held.qsize())
            if not message["more_body"]:
                return
            await asyncio.sleep(0)


def reader(read: list[int], allowed: asyncio.Semaphore) -> ASGIApp:
    """An app that reads a body, a message each time it is allowed, and answers how long it was."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            await allowed.acquire()
            message = await receive()
            read.append(len(message["body"]))
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % sum(read)})

    return app


async def test_what_the_app_does_not_read_is_not_taken_from_the_client() -> None:
    read: list[int] = []
    client, allowed = Client(CHUNKS), asyncio.Semaphore(0)
    serve = EagerServe(ReplicaWindow(reader(read, allowed)))
    answered = asyncio.create_task(ProxyWindow(serve)(SCOPE, client.receive, client.send))

    for _ in range(CHUNKS):  # many more turns than it takes
        await asyncio.sleep(0)
    assert client.sent == WINDOW_BYTES // CHUNK_BYTES < CHUNKS, "a window is taken, and then no more"

    while not answered.done():
        allowed.release()
        await asyncio.sleep(0)
        assert (client.sent - len(read)) * CHUNK_BYTES <= WINDOW_BYTES
    assert serve.held_most * CHUNK_BYTES <= WINDOW_BYTES
    assert client.answer[-1]["body"] == b"%d" % (CHUNKS * CHUNK_BYTES)
    assert [message["type"] for message in client.answer] == ["http.response.start", "http.response.body"]


async def test_a_server_without_the_window_is_told_nothing() -> None:
    client = Client(CHUNKS)
    await ReplicaWindow(reader([], asyncio.Semaphore(CHUNKS)))(SCOPE, client.receive, client.send)
    assert [message["type"] for message in client.answer] == ["http.response.start", "http.response.body"]
