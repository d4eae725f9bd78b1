"""The scheduler as seen from another process of the cluster."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import ray
from ray.exceptions import RayError

from raybatch.actors.gateway import NAMESPACE
from raybatch.actors.scheduler_actor import SCHEDULER_NAME
from raybatch.actors.scheduler_port import raise_rejection
from raybatch.config import Home
from raybatch.core.events import Event
from raybatch.errors import Unavailable

ANSWER_MAX_S: Final = 30.0


class RayScheduler:
    """Implements SchedulerPort. A scheduler that is away is found again at the next call."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._actor: Any = None

    async def ask(self, event: Event) -> Any:
        return await self._call("ask", event)

    async def read(self, what: str, *args: Any) -> Any:
        return await self._call("read", what, *args)

    async def _call(self, method: str, *args: Any) -> Any:
        try:
            if self._actor is None:
                self._actor = await asyncio.to_thread(ray.get_actor, SCHEDULER_NAME, NAMESPACE)
            async with asyncio.timeout(ANSWER_MAX_S):  # wait_for, in Python 3.11, may swallow a cancellation
                answer = await getattr(self._actor, method).remote(*args)
        except (RayError, ValueError, TimeoutError, ConnectionError) as error:
            self._actor = None
            raise Unavailable(
                f"The scheduler does not answer ({type(error).__name__}); what was remembered is safe.",
                retry_after_s=2,
            ) from error
        return raise_rejection(answer)
