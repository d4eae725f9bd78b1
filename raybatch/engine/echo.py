"""An engine without a model: it answers with the request's own words, from a child process.

It ships, as the engine for trying raybatch out and for measuring everything around an engine. Steps can
be given a cost, so that it behaves like a batching engine of a chosen speed; with no cost, rows finish at
once. What it says and how a request makes it fail is in `echo_answers`. It refuses to judge requests beyond
their shape.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import socket
import subprocess
import sys
from typing import cast

import msgspec

from raybatch.engine.contract import EXIT_CODE_MAX_S, OUTSIDE_EXIT_CODES, EngineReply, Progress
from raybatch.engine.echo_child import Ask, EchoSettings, Frames, FromChild, ToChild, frame
from raybatch.errors import EngineDied, EngineFailed

__all__ = ["EchoEngine", "EchoSettings"]

_STDERR = 2
_START_MAX_S = 60.0  #: beyond ``startup_s``; a fresh interpreter takes far less even on a busy machine


class EchoEngine:
    def __init__(self, settings: EchoSettings | None = None) -> None:
        self._settings = settings or EchoSettings()
        self._child: subprocess.Popen[bytes] | None = None
        self._link: _Link | None = None
        self._last = Progress(0, 0, 0, 0, 0, 0.0)

    @property
    def window(self) -> int:
        return math.ceil(1.125 * self._settings.concurrency)

    async def start(self) -> None:
        ours, childs = socket.socketpair()
        with childs:
            self._child = await asyncio.to_thread(_spawn, childs, self._settings)
        loop = asyncio.get_running_loop()
        _, self._link = await loop.create_unix_connection(_Link, sock=ours)
        ready_max_s = self._settings.startup_s + _START_MAX_S
        try:
            async with asyncio.timeout(ready_max_s):
                await self._link.ready
        except (EngineDied, TimeoutError) as error:
            await self.stop()
            why = (
                "ended at once" if isinstance(error, EngineDied) else f"was not ready in {ready_max_s:.0f} s"
            )
            raise EngineFailed(f"The echo engine's child process {why}; see its output.") from error

    async def generate(self, url: str, body: bytes, request_id: str) -> EngineReply:
        if self._link is None:
            raise EngineDied("The echo engine is not running.")
        return await self._link.ask(url, body, request_id)

    def progress(self) -> Progress:
        if self._link is not None and self._link.seen is not None:
            seen = self._link.seen
            self._last = Progress(
                steps=seen.steps,
                prompt_tokens=seen.prompt_tokens,
                completion_tokens=seen.completion_tokens,
                running=seen.running,
                waiting=seen.waiting,
                kv_cache_usage=seen.running / self._settings.concurrency,
            )
        return self._last

    def child_pids(self) -> tuple[int, ...]:
        return () if self._child is None or self._child.poll() is not None else (self._child.pid,)

    async def killed_from_outside(self) -> bool:
        if self._child is None:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            return await asyncio.to_thread(self._child.wait, EXIT_CODE_MAX_S) in OUTSIDE_EXIT_CODES
        return False

    async def stop(self) -> None:
        link, self._link = self._link, None
        child, self._child = self._child, None
        if link is not None:
            link.close()
        if child is not None:
            child.kill()  # nothing in it is worth an orderly end, and a stopped child would not notice EOF
            await asyncio.to_thread(child.wait)


def _spawn(sock: socket.socket, settings: EchoSettings) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "raybatch.engine.echo_child", msgspec.json.encode(settings).decode()]
    return subprocess.Popen(command, stdin=sock.fileno(), stdout=_STDERR)


class _Link(asyncio.Protocol):
    """The parent's end of the socket. Asks of one turn of the event loop leave as one frame."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.seen: FromChild | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._frames = Frames(FromChild)
        self._numbers = itertools.count()
        self._pending: dict[int, asyncio.Future[EngineReply]] = {}
        self._outbox = ToChild([], [])
        self._dead = False

    async def ask(self, url: str, body: bytes, request_id: str) -> EngineReply:
        if self._dead:
            raise _died()
        number = next(self._numbers)
        answer: asyncio.Future[EngineReply] = self._loop.create_future()
        self._pending[number] = answer
        self._post(asks=[Ask(number, url, body, request_id)])
        try:
            return await answer
        except asyncio.CancelledError:
            self._post(aborts=[number])
            raise
        finally:
            self._pending.pop(number, None)

    def close(self) -> None:
        self.connection_lost(None)
        if self._transport is not None:
            self._transport.close()

    def _post(self, *, asks: list[Ask] | None = None, aborts: list[int] | None = None) -> None:
        if not (self._outbox.asks or self._outbox.aborts):
            self._loop.call_soon(self._flush)
        self._outbox.asks.extend(asks or ())
        self._outbox.aborts.extend(aborts or ())

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, ToChild([], [])
        if self._transport is not None and not self._dead:
            self._transport.write(frame(outbox))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        for message in self._frames.feed(data):
            self.seen = message
            if not self.ready.done():
                self.ready.set_result(None)
            for reply in message.replies:
                answer = self._pending.get(reply.number)
                if answer is not None and not answer.done():
                    answer.set_result(EngineReply(reply.status, reply.body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._dead = True
        if not self.ready.done():
            self.ready.set_exception(_died())
            self.ready.exception()  # seen: start() may have given up before
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(_died())


def _died() -> EngineDied:
    return EngineDied("The echo engine's child process is gone.")
