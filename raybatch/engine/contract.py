"""What the rest of raybatch asks of an engine: HTTP-shaped requests in, HTTP-shaped replies out.

One engine holds one model in memory. It refuses to know about batches, leases or files.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EngineReply:
    """``status`` 200 with the response body byte for byte, or >= 400 with OpenAI's error envelope.

    An answer that only looks like a result (aborted, disconnected) is a 503: it may be asked again.
    """

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """Counters that only grow while the engine is alive; the sign of life is that they move."""

    steps: int
    prompt_tokens: int
    completion_tokens: int
    running: int
    waiting: int
    kv_cache_usage: float  #: 0..1


EXIT_CODE_MAX_S = 2.0  #: a process that died is not at once one whose exit code is known
#: exit codes of a process that somebody else ended
OUTSIDE_EXIT_CODES = frozenset({-signal.SIGKILL, -signal.SIGTERM})


class Engine(Protocol):
    """Lifecycle: ``start`` once, ``generate`` many times at once, ``stop`` once."""

    @property
    def window(self) -> int:
        """Rows to keep in flight: slightly above what the engine runs at once."""
        ...

    async def start(self) -> None:
        """Load the model. Raises EngineFailed with a message that says why and what helps."""
        ...

    async def generate(self, url: str, body: bytes, request_id: str) -> EngineReply:
        """Answer one request. Cancelling the call aborts the request in the engine.

        Raises EngineDied when the engine was lost; every request in flight then raises it.
        """
        ...

    def progress(self) -> Progress: ...

    def child_pids(self) -> tuple[int, ...]:
        """Pids of the processes that generate, for status and for fault tests."""
        ...

    async def killed_from_outside(self) -> bool:
        """Whether a process that generates was ended by SIGKILL or SIGTERM: by a person, or for memory."""
        ...

    async def stop(self) -> None:
        """Free the device and end the child processes. Safe to call at any time, more than once."""
        ...
