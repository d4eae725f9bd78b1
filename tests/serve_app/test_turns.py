"""Requests beyond the limit wait."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope, Send

from serve_app.turns import Turns


async def never() -> Message:
    raise AssertionError("nothing is received here")


async def nowhere(message: Message) -> None:
    raise AssertionError("nothing is sent here")


async def test_a_request_beyond_the_limit_begins_when_another_one_ends() -> None:
    begun: asyncio.Queue[int] = asyncio.Queue()
    may_end = [asyncio.Event() for _ in range(4)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.put_nowait(scope["number"])
        await may_end[scope["number"]].wait()
        if scope["number"] == 1:
            raise ValueError("an app that fails gives its turn back, too")

    turns = Turns(app, at_once_max=2)
    requests = [asyncio.create_task(turns({"number": number}, never, nowhere)) for number in range(4)]
    assert [await begun.get(), await begun.get()] == [0, 1]
    for ended, next_one in ((1, 2), (2, 3)):
        assert begun.empty()
        may_end[ended].set()
        assert await begun.get() == next_one
    for event in may_end:
        event.set()
    ends = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), ValueError, type(None), type(None)]
