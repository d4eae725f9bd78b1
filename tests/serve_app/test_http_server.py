"""The API's server on real sockets: who waits for whom."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.http_server import HttpServer

PIECE = b"x" * (1 << 20)
PIECES = 64
HELD_MAX = 16  #: MiB that both ends' sockets and the server's own buffers may take
IDLE_TURNS = 2000  #: of the event loop in which nothing moves


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[tuple[HttpServer, socket.socket]]:
    """The server, and a client's connection to it that never blocks."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(app, listener)
    await server.check()
    with socket.create_connection(listener.getsockname()) as client:
        client.setblocking(False)
        yield server, client
    server.should_exit = True
    with pytest.raises(RuntimeError, match="has ended"):
        await check_on(server)


async def check_on(server: HttpServer) -> None:
    while True:
        await server.check()
        await asyncio.sleep(0)


async def send_while_taken(client: socket.socket, message: bytes) -> int:
    """How much of it was taken until nobody took any more."""
    view, sent, idle = memoryview(message), 0, 0
    while sent < len(message) and idle < IDLE_TURNS:
        try:
            sent += client.send(view[sent : sent + len(PIECE)])
            idle = 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(0)
    return sent


async def test_a_client_waits_while_the_app_does_not_read_its_upload() -> None:
    may_read = asyncio.Event()

    async def reader(scope: Scope, receive: Receive, send: Send) -> None:
        await may_read.wait()
        read, more = 0, True
        while more:
            message = await receive()
            read, more = read + len(message["body"]), message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d bytes" % read})

    body = PIECE * PIECES
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with served(reader) as (_, client):
        sent = await send_while_taken(client, head + body)
        assert sent < HELD_MAX << 20
        may_read.set()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, memoryview(head + body)[sent:])
        answer = b""
        while b" bytes" not in answer:
            answer += await loop.sock_recv(client, 4096)
        assert b"%d bytes" % len(body) in answer


async def test_a_download_waits_for_its_client() -> None:
    sent = 0

    async def download(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        length = str(PIECES * len(PIECE)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        for number in range(PIECES):
            await send({"type": "http.response.body", "body": PIECE, "more_body": number < PIECES - 1})
            sent += 1

    async with served(download) as (_, client):
        await send_while_taken(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        before, idle = -1, 0
        while idle < IDLE_TURNS:
            before, idle = sent, idle + 1 if sent == before else 0
            await asyncio.sleep(0)
        assert 0 < sent < HELD_MAX
        received = 0
        while received < PIECES * len(PIECE):
            received += len(await asyncio.get_running_loop().sock_recv(client, len(PIECE)))
        assert sent >= PIECES - 1


async def test_a_server_that_has_ended_says_so() -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("nobody asks here")

    async with served(never) as (server, _):
        server.should_exit = True
        with pytest.raises(RuntimeError, match="has ended"):
            await check_on(server)
