"""Blocking work off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from anyio import to_thread

T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """``call()`` in a thread. A caller that is cancelled first waits for the call to end, so that nothing the
    call uses is taken away beneath it."""
    work = asyncio.ensure_future(to_thread.run_sync(call))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
