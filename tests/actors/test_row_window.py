"""Which row enters the window next, and what leaves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from raybatch.actors.held_lease import RequestRow
from raybatch.actors.row_window import RowWindow
from raybatch.core.commands import Lease
from raybatch.core.rows import full
from raybatch.engine.contract import EngineReply, Progress
from raybatch.errors import EngineDied


@dataclass
class Gate:
    """An engine whose rows end when the test says so."""

    window: int = 4
    asked: list[str] = field(default_factory=list)
    answers: dict[str, asyncio.Future[int]] = field(default_factory=dict)

    async def start(self) -> None: ...

    async def generate(self, url: str, body: bytes, request_id: str) -> EngineReply:
        self.asked.append(body.decode())
        future = self.answers.setdefault(body.decode(), asyncio.get_running_loop().create_future())
        status = await asyncio.shield(future)
        self.answers.pop(body.decode(), None)
        return EngineReply(status, b"{}")

    async def finish(self, *rows: str, status: int = 200) -> None:
        for row in rows:
            self.answers[row].set_result(status)
        await settled()

    def progress(self) -> Progress:
        return Progress(0, 0, 0, 0, 0, 0.0)

    def child_pids(self) -> tuple[int, ...]:
        return ()

    async def killed_from_outside(self) -> bool:
        return False

    async def stop(self) -> None: ...


async def settled() -> None:
    """Until every task that can go on has done so."""
    for _ in range(20):
        await asyncio.sleep(0)


def window(gate: Gate, rows: int, changed: Callable[[], None] = lambda: None) -> RowWindow:
    return RowWindow(gate, "e", rows, 3, changed=changed, died=lambda: None)


def lease(name: str, chunk_id: int, rows: int, *, priority: int = 0, row_tokens: float = 1.0) -> Lease:
    return Lease(chunk_id, chunk_id, name, "file", "/v1/x", 0, rows, full(rows), 1, priority, row_tokens)


def requests(name: str, rows: int) -> list[RequestRow]:
    return [RequestRow(i, i, f"{name}{i}", f"{name}{i}".encode()) for i in range(rows)]


async def test_a_batch_that_comes_late_gets_its_share_of_the_rows_that_enter() -> None:
    gate = Gate()
    rows = window(gate, 4)
    rows.add(lease("large", 1, 100), requests("L", 100))
    await settled()
    rows.add(lease("small", 2, 10), requests("s", 10))
    await settled()
    await gate.finish("L0", "L1")
    assert gate.asked == ["L0", "L1", "L2", "L3", "s0", "s1"]
    await gate.finish("L2", "s0")
    assert sorted(gate.asked[6:]) == ["L4", "s2"]
    rows.close()
    rows.abort()


async def test_rows_that_cost_more_enter_less_often() -> None:
    gate = Gate()
    rows = window(gate, 0)
    rows.add(lease("dear", 1, 100, row_tokens=300.0), requests("d", 100))
    rows.add(lease("cheap", 2, 100, row_tokens=100.0), requests("c", 100))
    rows.resize(8)
    await settled()
    assert sorted(word[0] for word in gate.asked) == ["c"] * 6 + ["d"] * 2
    rows.close()
    rows.abort()


def limited(name: str, *limits: int) -> list[RequestRow]:
    rows = requests(name, len(limits))
    return [replace(row, limit_tokens=limit) for row, limit in zip(rows, limits, strict=True)]


async def test_the_last_rows_enter_the_longest_first_across_leases() -> None:
    gate = Gate()
    rows = window(gate, 1)
    rows.add(lease("b", 1, 3), limited("b", 9, 1, 5))
    rows.add(lease("b", 2, 3), limited("c", 2, 8, 4))
    rows.begin_last_wave()
    for _ in range(6):
        await settled()
        await gate.finish(gate.asked[-1])
    assert gate.asked == ["b0", "c1", "b2", "c2", "c0", "b1"]
    assert {chunk: len(found) for chunk, found in rows.take_finished("b").items()} == {1: 3, 2: 3}


async def test_a_lease_given_back_in_the_last_wave_starts_no_row_and_new_rows_follow_it() -> None:
    gate = Gate()
    rows = window(gate, 1)
    rows.add(lease("b", 1, 2), limited("b", 9, 7))
    rows.add(lease("b", 2, 2), limited("c", 8, 6))
    rows.begin_last_wave()
    rows.give_back(2)
    rows.add(lease("b", 3, 2), limited("d", 50, 60))
    for _ in range(4):
        await settled()
        await gate.finish(gate.asked[-1])
    assert gate.asked == ["b0", "b1", "d0", "d1"]


async def test_a_higher_priority_takes_every_free_place() -> None:
    gate = Gate()
    rows = window(gate, 2)
    rows.add(lease("low", 1, 100), requests("l", 100))
    await settled()
    rows.add(lease("high", 2, 100, priority=5), requests("h", 100))
    await gate.finish("l0", "l1")
    await gate.finish("h0")
    assert gate.asked == ["l0", "l1", "h0", "h1", "h2"]
    rows.close()
    rows.abort()


async def test_a_row_without_an_answer_in_time_gets_an_error_row_and_leaves_its_place_to_the_next() -> None:
    gate = Gate()
    one_ended = asyncio.Event()
    rows = RowWindow(gate, "e", 1, 3, changed=one_ended.set, died=lambda: None, row_max_s=0.01)
    rows.add(lease("b", 1, 2), requests("b", 2))
    while rows.finished_rows < 2:
        await one_ended.wait()
        one_ended.clear()
    assert gate.asked == ["b0", "b1"]
    assert [row.error_code for row in rows.take_finished("b")[1]] == ["request_timeout"] * 2
    rows.close()
    rows.abort()


class Dying(Gate):
    """Whatever it is asked, it is gone."""

    async def generate(self, url: str, body: bytes, request_id: str) -> EngineReply:
        self.asked.append(body.decode())
        await settled()
        raise EngineDied("gone")


async def test_no_row_enters_a_dead_engine_and_only_those_in_flight_are_told() -> None:
    engine, deaths = Dying(), list[int]()
    rows = RowWindow(engine, "e", 3, 3, changed=lambda: None, died=lambda: deaths.append(1))
    rows.add(lease("b", 1, 10), requests("b", 10))
    while len(deaths) < 3:
        await settled()
    await settled()
    assert engine.asked == ["b0", "b1", "b2"]
    (told,) = rows.rows_at_death()
    assert told.rows == 0b111
    rows.close()
    rows.abort()


async def test_a_lease_whose_only_row_fell_with_the_engine_is_held_until_that_is_told() -> None:
    deaths = list[int]()
    rows = RowWindow(Dying(), "e", 3, 3, changed=lambda: None, died=lambda: deaths.append(1))
    rows.add(lease("b", 1, 1), requests("b", 1))
    while not deaths:
        await settled()
    rows.close()
    rows.forget_settled()
    assert list(rows.held) == [1]


async def test_a_lease_given_back_starts_no_row_and_keeps_what_runs() -> None:
    gate = Gate()
    rows = window(gate, 2)
    rows.add(lease("b", 1, 10), requests("b", 10))
    await settled()
    rows.give_back(1)
    await gate.finish("b0", "b1")
    assert gate.asked == ["b0", "b1"]
    taken = rows.take_finished("b")
    assert [row.custom_id for row in taken[1]] == ["b0", "b1"]
    rows.settle(1, 2)
    assert rows.held == {}


async def test_a_smaller_window_lets_rows_finish_and_a_larger_one_fills_at_once() -> None:
    gate = Gate()
    rows = window(gate, 4)
    rows.add(lease("b", 1, 20), requests("b", 20))
    await settled()
    rows.resize(1)
    await gate.finish("b0", "b1", "b2")
    assert len(gate.asked) == 4
    await gate.finish("b3")
    assert gate.asked[4:] == ["b4"]
    rows.resize(3)
    await settled()
    assert gate.asked[5:] == ["b5", "b6"]
    rows.close()
    rows.abort()


async def test_the_attempt_of_a_row_counts_every_try() -> None:
    gate = Gate()
    done = asyncio.Event()
    rows = window(gate, 1, changed=done.set)
    rows.add(lease("b", 1, 1), requests("b", 1))
    await settled()
    await gate.finish("b0", status=503)
    while not gate.answers:
        await asyncio.sleep(0.01)
    done.clear()
    await gate.finish("b0")
    await done.wait()
    assert [row.attempt for row in rows.take_finished("b")[1]] == [2]
