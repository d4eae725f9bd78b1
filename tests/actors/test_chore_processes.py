"""Processes for chores: one that waits is used again, and one that died meanwhile costs no chore."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from raybatch.actors import chore_processes
from raybatch.actors.chore_processes import PEAK_BYTES_MAX, ChoreProcesses
from raybatch.core.events import Event, Tick


class Process:
    """What Ray's handle shows of one."""

    def __init__(self) -> None:
        self.dead = False
        self.peak_bytes = 1
        self.chores = 0
        self.run = _remote(self._run)
        self.lives = _remote(self._lives)

    async def _run(self, work: Callable[..., list[Event]], args: tuple[Any, ...]) -> tuple[list[Event], int]:
        await self._lives()
        self.chores += 1
        return work(*args), self.peak_bytes

    async def _lives(self) -> None:
        if self.dead:
            raise ray.exceptions.ActorDiedError


def _remote(call: Callable[..., Awaitable[Any]]) -> SimpleNamespace:
    return SimpleNamespace(remote=call)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """All that were ever started, oldest first."""
    found: list[Process] = []

    def start() -> Process:
        found.append(Process())
        return found[-1]

    monkeypatch.setattr(chore_processes, "_start", start)
    monkeypatch.setattr(ray, "kill", lambda process: setattr(process, "dead", True))
    return found


def chore() -> list[Event]:
    return [Tick()]


async def test_one_process_does_one_chore_after_the_other(started: list[Process]) -> None:
    processes = ChoreProcesses()
    for _ in range(2):
        assert await processes.run(chore) == [Tick()]
    assert [process.chores for process in started] == [2]


async def test_one_that_died_while_it_waited_is_replaced_before_it_is_given_a_chore(
    started: list[Process],
) -> None:
    processes = ChoreProcesses()
    processes.warm()
    started[0].dead = True
    assert await processes.run(chore) == [Tick()]
    assert [process.chores for process in started] == [0, 1]
    assert await processes.run(chore) == [Tick()]
    assert [process.chores for process in started] == [0, 2]


async def test_a_chore_that_takes_its_process_down_is_not_tried_again(started: list[Process]) -> None:
    def deadly() -> list[Event]:
        raise ray.exceptions.ActorDiedError

    processes = ChoreProcesses()
    with pytest.raises(ray.exceptions.ActorDiedError):
        await processes.run(deadly)
    assert [(process.chores, process.dead) for process in started] == [(1, True)]


async def test_one_that_has_held_much_memory_is_not_kept(started: list[Process]) -> None:
    processes = ChoreProcesses()
    processes.warm()
    started[0].peak_bytes = PEAK_BYTES_MAX + 1
    await processes.run(chore)
    assert started[0].dead
    await processes.run(chore)
    assert [process.chores for process in started] == [1, 1]
