"""The process in which the echo engine generates: one socket on stdin, one loop of steps.

Run as ``python -m raybatch.engine.echo_child SETTINGS_JSON``. A frame is a 4-byte big-endian length and
MessagePack. The process ends when the socket does, so it cannot outlive its parent. It speaks to nobody else.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from raybatch.engine.echo_answers import Answer, Fault, answer

_LENGTH = struct.Struct(">I")
_READ_BYTES = 1 << 20
_LATE_MAX_S = 0.1  #: how far the steps may catch up after the machine was busy; more would be a burst


class EchoSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A step takes ``alpha_ms + beta_ms * running`` and yields one token for each running row."""

    alpha_ms: float = 0.0
    beta_ms: float = 0.0
    concurrency: int = 256  #: rows that run at once; the others wait, first come first served
    startup_s: float = 0.0  #: how long loading takes
    tally: str = ""  #: a file that grows by one byte for each row that begins to run; empty: none


class Ask(msgspec.Struct, array_like=True):
    number: int
    url: str
    body: bytes
    request_id: str


class Reply(msgspec.Struct, array_like=True):
    number: int
    status: int
    body: bytes


class ToChild(msgspec.Struct, array_like=True):
    asks: list[Ask]
    aborts: list[int]


class FromChild(msgspec.Struct, array_like=True):
    steps: int
    prompt_tokens: int
    completion_tokens: int
    running: int
    waiting: int
    replies: list[Reply]


MessageT = TypeVar("MessageT", ToChild, FromChild)


def frame(message: ToChild | FromChild) -> bytes:
    packed = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(packed)) + packed


class Frames(Generic[MessageT]):
    """Cuts a byte stream into messages."""

    def __init__(self, message_type: type[MessageT]) -> None:
        self._decoder: msgspec.msgpack.Decoder[MessageT] = msgspec.msgpack.Decoder(message_type)
        self._buffer = bytearray()

    def feed(self, received: bytes) -> Iterator[MessageT]:
        self._buffer += received
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            end = start + _LENGTH.size + _LENGTH.unpack_from(self._buffer, start)[0]
            if len(self._buffer) < end:
                break
            yield self._decoder.decode(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]


@dataclass(slots=True)
class _Row:
    number: int
    answer: Answer


@dataclass(slots=True)
class _Steps:
    """Which rows run, which wait, and what a step does to them."""

    settings: EchoSettings
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    hung: bool = False
    waiting: deque[_Row] = field(default_factory=deque)
    running: dict[int, _Row] = field(default_factory=dict)
    due: dict[int, list[_Row]] = field(default_factory=dict)  #: step -> rows that end with it
    aborted: set[int] = field(default_factory=set)  #: numbers of waiting rows to skip
    begun: int = 0

    @property
    def idle(self) -> bool:
        return self.hung or not (self.waiting or self.running)

    @property
    def step_s(self) -> float:
        return (self.settings.alpha_ms + self.settings.beta_ms * len(self.running)) / 1000

    def abort(self, number: int) -> None:
        if self.running.pop(number, None) is None and any(row.number == number for row in self.waiting):
            self.aborted.add(number)

    def admit(self) -> None:
        instant = self.settings.alpha_ms == self.settings.beta_ms == 0
        while self.waiting and len(self.running) < self.settings.concurrency:
            row = self.waiting.popleft()
            if row.number in self.aborted:
                self.aborted.remove(row.number)
                continue
            if row.answer.fault is Fault.CRASH:
                os._exit(1)
            if row.answer.fault is Fault.HANG:
                self.hung = True
                return
            self.running[row.number] = row
            self.begun += 1
            self.prompt_tokens += row.answer.prompt_tokens
            last_step = self.steps + (1 if instant else max(1, row.answer.completion_tokens))
            self.due.setdefault(last_step, []).append(row)

    def step(self) -> list[Reply]:
        """One token for every running row; the replies of those that ended with it."""
        self.steps += 1
        ended = [row for row in self.due.pop(self.steps, ()) if self.running.pop(row.number, None)]
        self.completion_tokens += sum(row.answer.completion_tokens for row in ended)
        return [Reply(row.number, row.answer.status, row.answer.body) for row in ended]


class _Child:
    def __init__(self, sock: socket.socket, settings: EchoSettings) -> None:
        self._sock = sock
        self._frames = Frames(ToChild)
        self._steps = _Steps(settings)
        self._failures: Counter[str] = Counter()
        self._tally = open(settings.tally, "ab", buffering=0) if settings.tally else None  # noqa: SIM115
        self._told_begun = 0

    def run(self) -> None:
        self._send([])  # the first frame says: loaded
        step_ends_at = 0.0
        while True:
            if self._steps.idle:
                self._receive(None)
                step_ends_at = time.monotonic()
                continue
            self._receive(0)
            self._steps.admit()
            self._tell_begun()
            if self._steps.hung:
                continue
            now = time.monotonic()
            step_ends_at = max(step_ends_at, now - _LATE_MAX_S) + self._steps.step_s
            while (left_s := step_ends_at - time.monotonic()) > 0:
                self._receive(left_s)
            self._send(self._steps.step())

    def _tell_begun(self) -> None:
        """One write, so that what several processes append stays whole."""
        if self._tally is not None and self._steps.begun > self._told_begun:
            self._tally.write(b"." * (self._steps.begun - self._told_begun))
            self._told_begun = self._steps.begun

    def _receive(self, wait_s: float | None) -> None:
        """Take in what has arrived, waiting up to ``wait_s`` for it. Ends the process at end of file."""
        if not select.select([self._sock], [], [], wait_s)[0]:
            return
        received = self._sock.recv(_READ_BYTES)
        if not received:
            raise SystemExit(0)
        refused: list[Reply] = []
        for message in self._frames.feed(received):
            for ask in message.asks:
                said = answer(ask.url, ask.body, ask.request_id, self._failures)
                if said.status >= 400:
                    refused.append(Reply(ask.number, said.status, said.body))
                else:
                    self._steps.waiting.append(_Row(ask.number, said))
            for number in message.aborts:
                self._steps.abort(number)
        if refused:
            self._send(refused)

    def _send(self, replies: list[Reply]) -> None:
        steps = self._steps
        message = FromChild(
            steps.steps,
            steps.prompt_tokens,
            steps.completion_tokens,
            len(steps.running),
            len(steps.waiting),
            replies,
        )
        try:
            self._sock.sendall(frame(message))
        except (BrokenPipeError, ConnectionResetError):
            raise SystemExit(0) from None


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    settings = msgspec.json.decode(sys.argv[1], type=EchoSettings)
    time.sleep(settings.startup_s)
    _Child(socket.socket(fileno=0), settings).run()


if __name__ == "__main__":
    main()
