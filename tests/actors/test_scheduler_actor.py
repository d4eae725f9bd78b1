"""The scheduler's actor, without Ray: what is asked of it before it is up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from raybatch.actors.scheduler_actor import SchedulerActor
from raybatch.config import Home


class CountingGateway:
    def __init__(self) -> None:
        self.warmed = 0

    def warm(self) -> None:
        self.warmed += 1


class LateActor(SchedulerActor):
    """Comes up when it is told to."""

    def __init__(self, home_root: str) -> None:
        self.gateway = CountingGateway()
        self.may_come_up = asyncio.Event()
        super().__init__(home_root)

    async def _run(self) -> None:
        await self.may_come_up.wait()
        self._come_up(cast(Any, None), cast(Any, self.gateway))

    async def lives(self) -> None:
        """Once everything that was asked for earlier has begun."""
        await self._loop.do(asyncio.sleep(0))

    def come_up(self) -> None:
        self._loop.soon(self.may_come_up.set)


async def test_a_warm_up_that_is_asked_for_too_early_comes_once_the_scheduler_is_up(tmp_path: Path) -> None:
    Home(tmp_path).make()
    actor = LateActor(str(tmp_path))
    asked = asyncio.create_task(actor.warm())
    await asyncio.sleep(0)
    await actor.lives()
    assert (asked.done(), actor.gateway.warmed) == (False, 0)
    actor.come_up()
    await asked
    assert actor.gateway.warmed == 1
