"""Many clients that ask how a batch goes, in a process of their own: ``python -m jobs.poller_child``.

Each asks every so many seconds over a connection it keeps, and not all at once. They begin when they are
started and end with stdin; what each answer took is one JSON line on stdout then.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import Final

import httpx
import msgspec

READY: Final = b"ready\n"
ANSWER_MAX_S: Final = 30.0


class Polled(msgspec.Struct):
    latencies_ms: list[float]  #: of each answered look, from asking to the whole answer
    failed: int = 0  #: looks without an answer, or with another status than 200


async def poll(url: str, clients: int, every_s: float, over: asyncio.Event) -> Polled:
    """``url``: what each of them asks for."""
    polled = Polled([])
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(timeout=ANSWER_MAX_S, limits=limits, trust_env=False) as http:
        waits_s = (every_s * number / clients for number in range(clients))
        await asyncio.gather(*(_client(http, url, wait_s, every_s, over, polled) for wait_s in waits_s))
    return polled


async def _client(
    http: httpx.AsyncClient, url: str, wait_s: float, every_s: float, over: asyncio.Event, polled: Polled
) -> None:
    while not await _passed(over, wait_s):
        asked_mono = time.monotonic()
        try:
            answer = await http.get(url)
            fine = answer.status_code == httpx.codes.OK
        except httpx.HTTPError:
            fine = False
        took_s = time.monotonic() - asked_mono
        if fine:
            polled.latencies_ms.append(1000 * took_s)
        else:
            polled.failed += 1
        wait_s = max(0.0, every_s - took_s)


async def _passed(over: asyncio.Event, wait_s: float) -> bool:
    """Whether it is over, looked at for so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await over.wait()
    return over.is_set()


async def _main(url: str, clients: int, every_s: float) -> Polled:
    over = asyncio.Event()
    polling = asyncio.create_task(poll(url, clients, every_s, over))
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    await asyncio.to_thread(sys.stdin.buffer.read)
    over.set()
    return await polling


if __name__ == "__main__":
    told = asyncio.run(_main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
    sys.stdout.buffer.write(msgspec.json.encode(told))
