"""What the Serve deployment adds to the app, against a stand-in for Serve's endless queue."""

from __future__ import annotations

import asyncio
import pickle

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from serve_app.serve_fit import PIECES_QUEUED_MAX, FitForServe

PIECES = [bytes([i]) * 10 for i in range(12)]


async def download(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"x-request-id", b"a"), (b"content-length", b"120")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in PIECES:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def test_a_download_waits_for_serve_to_take_its_pieces() -> None:
    queue: list[Message] = []
    taken: list[Message] = []
    sent = asyncio.Event()

    async def endless(message: Message) -> None:
        queue.append(message)
        sent.set()

    async def never() -> Message:
        raise AssertionError("nothing is received here")

    answer = asyncio.create_task(FitForServe(download)({"type": "http"}, never, endless))
    while not answer.done():
        sent.clear()
        await asyncio.wait([answer, wake := asyncio.create_task(sent.wait())], return_when="FIRST_COMPLETED")
        wake.cancel()
        assert sum(bool(message.get("body")) for message in queue) <= PIECES_QUEUED_MAX
        taken += pickle.loads(pickle.dumps(queue))
        queue.clear()

    assert Headers(raw=taken[0]["headers"]).keys() == ["content-length"]
    assert b"".join(message["body"] for message in taken[1:]) == b"".join(PIECES)
    assert {type(message["body"]) for message in taken[1:]} == {bytes}
    assert [message["more_body"] for message in taken[-2:]] == [True, False]
