"""The pollers benchmark's own arithmetic, and clients that are told of an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from jobs.poller_child import poll
from jobs.pollers import ALONE, POLLED, Clients, Run, quantile, report


def test_a_quantile_is_one_of_the_figures() -> None:
    figures = [float(number) for number in range(100, 0, -1)]
    assert (quantile(figures, 0.5), quantile(figures, 0.99), quantile(figures, 1.0)) == (50.0, 99.0, 100.0)
    assert quantile([7.0], 0.5) == 7.0


def test_times_are_compared_within_rounds() -> None:
    def run(arm: str, round_: int, wall_s: float) -> Run:
        return Run(arm, round_, 10, wall_s, [1.0, 3.0] if arm == POLLED else [], 0)

    runs = [run(ALONE, 0, 10.0), run(POLLED, 0, 10.2), run(POLLED, 0, 10.4), run(ALONE, 0, 10.6)]
    told = report(runs, Clients(2, 1.0))

    assert told["ratio"]["time"].median == pytest.approx(1.0)
    assert told["arms"]["latency_ms"]["p99"].median == 3.0
    assert told["arms"]["answers"] == 4


async def test_clients_ask_until_it_is_over_and_count_what_failed() -> None:
    over = asyncio.Event()
    answered = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        while (await reader.readuntil(b"\r\n\r\n")) and answered < 8:
            answered += 1
            status = b"500 no" if answered == 3 else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 2\r\n\r\nok")
        over.set()
        writer.close()

    async with _served(answer) as url:
        polled = await poll(url, clients=1, every_s=0.001, over=over)

    assert len(polled.latencies_ms) == 7
    assert polled.failed >= 1  # the refused look; the one cut off at the end may be seen, too


@asynccontextmanager
async def _served(answer: object) -> AsyncIterator[str]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)  # type: ignore[arg-type]
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
