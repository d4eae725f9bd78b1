"""The production scheduler's decisions over engines that are a step model, in virtual time.

``decide`` and ``State`` are the real ones, and engines ask for rows, keep their window full and commit by the
rules of the real ones (``raybatch.core.credit``); a step takes ``alpha_s + beta_s * rows running`` and gives
each of them a token. No clock, no process, no file: the same input gives the same times, on any machine. It
leaves out what takes real time around a decision, which is ``turn_s`` here, once and for all.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from raybatch.config import EngineSettings
from raybatch.core import events as e
from raybatch.core.commands import EngineOrders, Lease, Reply
from raybatch.core.credit import asks_at_once, credit_rows, wanted_rows
from raybatch.core.decide import decide
from raybatch.core.decision import Decision
from raybatch.core.model import File, PartFile, PartSlice, Tally, Usage
from raybatch.core.policy import Policy
from raybatch.core.rows import bitmap_of, offsets_of
from raybatch.core.state import State

MODEL: Final = "virtual"
TURN_S: Final = 0.01  #: from a message to its answer: the scheduler's tick with its commit
WRITE_S: Final = 0.02  #: a part's way to the disk
RATE_SPAN_S: Final = 5.0  #: over which an engine measures its rows a second
WALL_AT: Final = 1_700_000_000.0
SETTINGS: Final = EngineSettings()
#: parts are not merged here
POLICY: Final = Policy(compaction_fan_in=1_000_000_000)


@dataclass(frozen=True)
class Shape:
    """What an engine is like."""

    alpha_s: float
    beta_s: float
    concurrency: int  #: rows that run at once

    @property
    def window(self) -> int:
        """Rows in flight, as the echo engine names it."""
        return math.ceil(1.125 * self.concurrency)

    @property
    def tokens_per_s(self) -> float:
        """At the most: while as many rows run as may."""
        return self.concurrency / self.step_s(self.concurrency)

    def step_s(self, running: int) -> float:
        return self.alpha_s + self.beta_s * running


class Timeline:
    """What is to happen, and when."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, wait_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now_s + wait_s, next(self._numbers), what))

    def run(self, over: Callable[[], bool]) -> None:
        """Until it is over. Raises AssertionError when nothing is left to happen before that."""
        while not over():
            assert self._due, "nothing happens any more"
            self.now_s, _, what = heapq.heappop(self._due)
            what()


@dataclass(slots=True)
class Row:
    tokens: int
    ended: Callable[[], None]


class StepModel:
    """Rows that run at once, token by token. ``refill`` is asked for another one whenever a row ended."""

    def __init__(self, timeline: Timeline, shape: Shape, refill: Callable[[], Row | None]) -> None:
        self._timeline, self.shape, self._refill = timeline, shape, refill
        self.running = 0
        self._steps = 0
        self._due: dict[int, list[Row]] = {}
        self._stepping = False

    def fill(self) -> None:
        if not self._stepping:
            self._begin_step()

    def _begin_step(self) -> None:
        while self.running < self.shape.concurrency and (row := self._refill()) is not None:
            self.running += 1
            self._due.setdefault(self._steps + max(1, row.tokens), []).append(row)
        self._stepping = self.running > 0
        if self._stepping:
            self._timeline.after(self.shape.step_s(self.running), self._end_step)

    def _end_step(self) -> None:
        self._steps += 1
        for row in self._due.pop(self._steps, ()):
            self.running -= 1
            row.ended()
        self._begin_step()


@dataclass(slots=True)
class _Held:
    lease: Lease
    waiting: deque[int]  #: positions
    running: int = 0
    finished: list[int] = field(default_factory=list)
    writing: int = 0

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    @property
    def settled(self) -> bool:
        return self.idle and not self.finished and not self.writing


def straight_s(shapes: Sequence[Shape], queues: Sequence[deque[int]]) -> float:
    """When engines without a scheduler are done that take their rows from a queue each, or all from one."""
    timeline = Timeline()

    def taken_from(queue: deque[int]) -> Callable[[], Row | None]:
        return lambda: Row(queue.popleft(), lambda: None) if queue else None

    models = [
        StepModel(timeline, shape, taken_from(queue)) for shape, queue in zip(shapes, queues, strict=True)
    ]
    for model in models:
        model.fill()
    timeline.run(lambda: not any(model.running for model in models))
    return timeline.now_s


class VirtualEngine:
    """Holds leases as a real engine does: a credit of rows, a window kept full, parts every now and then."""

    def __init__(self, cluster: VirtualCluster, engine_id: str, shape: Shape) -> None:
        self._cluster, self.engine_id = cluster, engine_id
        self.model = StepModel(cluster.timeline, shape, self._next)
        self._held: dict[int, _Held] = {}
        self._seq = 0
        self._more_expected = False
        self._asking = False  #: a report is on its way
        self._flush_due = False
        self._committing = False
        self._finished_rows = 0
        self._samples: deque[tuple[float, int]] = deque()

    def report(self) -> None:
        """Unless one is on its way already."""
        if self._asking:
            return
        self._asking = True
        self._seq += 1
        shape = self.model.shape
        sent = e.EngineReport(
            reply_to=self.engine_id,
            engine_id=self.engine_id,
            incarnation=1.0,
            seq=self._seq,
            models=(MODEL,),
            phase=e.EnginePhase.READY,
            held=tuple(e.HeldLease(one.lease.chunk_id, one.lease.token) for one in self._held.values()),
            wants_rows=self._wanted(),
            window=shape.window,
            running=self.model.running,
            rows_per_s=self._rate(),
            tokens_per_s=0.0,
            pid=1,
            child_pids=(),
        )
        self._cluster.timeline.after(TURN_S, lambda: self._obey(self._cluster.say(sent)))

    def beat(self) -> None:
        """The heartbeat, for ever."""
        self.report()
        self._cluster.timeline.after(SETTINGS.report_s, self.beat)

    def _obey(self, orders: EngineOrders) -> None:
        self._asking = False
        for chunk_id in orders.give_back:
            self._held[chunk_id].waiting.clear()
        self._more_expected = bool(orders.leases)
        for lease in orders.leases:
            positions = deque(lease.first + offset for offset in offsets_of(lease.rows))
            self._held[lease.chunk_id] = _Held(lease, positions)
        self._forget_settled()
        self.model.fill()
        self._ask_at_once()

    def _next(self) -> Row | None:
        """Of the batch with the fewest tokens in flight, in the order its leases came."""
        running: dict[str, float] = {}
        first: dict[str, _Held] = {}
        for held in self._held.values():
            batch_id = held.lease.batch_id
            running[batch_id] = running.get(batch_id, 0.0) + held.running * held.lease.row_tokens
            if held.waiting:
                first.setdefault(batch_id, held)
        if not first:
            return None
        held = min(first.values(), key=lambda one: (-one.lease.priority, running[one.lease.batch_id]))
        position = held.waiting.popleft()
        held.running += 1
        tokens = self._cluster.lengths[held.lease.batch_id][position]
        return Row(tokens, lambda: self._ended(held, position))

    def _ended(self, held: _Held, position: int) -> None:
        held.running -= 1
        held.finished.append(position)
        self._finished_rows += 1
        self._ask_at_once()
        if self._committing:
            return
        mine = list(self._held.values())
        many = sum(len(one.finished) for one in mine) >= SETTINGS.flush_rows
        if many or all(one.idle for one in mine):
            self._commit()
        elif not self._flush_due:
            self._flush_due = True
            self._cluster.timeline.after(SETTINGS.flush_s, self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if not self._committing:
            self._commit()

    def _commit(self) -> None:
        """One part of what is finished, of each batch."""
        taken: dict[str, list[tuple[_Held, list[int]]]] = {}
        for held in self._held.values():
            if held.finished:
                taken.setdefault(held.lease.batch_id, []).append((held, held.finished))
                held.finished, held.writing = [], len(held.finished)
        self._committing = bool(taken)
        parts = [self._part(batch_id, pieces) for batch_id, pieces in taken.items()]
        if parts:
            self._cluster.timeline.after(WRITE_S + TURN_S, lambda: self._committed(parts))

    def _part(self, batch_id: str, pieces: list[tuple[_Held, list[int]]]) -> e.PartWritten:
        rows = sum(len(positions) for _, positions in pieces)
        part_id = self._cluster.draw("part")
        slices = tuple(
            PartSlice(
                held.lease.chunk_id,
                held.lease.token,
                held.lease.first,
                bitmap_of(position - held.lease.first for position in positions),
                Tally(completed=len(positions), usage=Usage()),
            )
            for held, positions in pieces
        )
        return e.PartWritten(
            part_id, self.engine_id, batch_id, PartFile(part_id, part_id, 1, rows, "crc32c:0"), slices
        )

    def _committed(self, parts: list[e.PartWritten]) -> None:
        self._committing = False
        for written in parts:
            self._cluster.say(written)
            for piece in written.slices:
                self._held[piece.chunk_id].writing = 0
        self._forget_settled()
        self.report()
        if any(held.finished for held in self._held.values()) and not self._flush_due:
            self._flush_due = True
            self._cluster.timeline.after(SETTINGS.flush_s, self._flush)
        if self._held and all(held.idle for held in self._held.values()):
            self._commit()

    def _forget_settled(self) -> None:
        for chunk_id in [chunk_id for chunk_id, held in self._held.items() if held.settled]:
            del self._held[chunk_id]

    def _ask_at_once(self) -> None:
        credit = credit_rows(self.model.shape.window, self._rate())
        if self._more_expected and asks_at_once(self._wanted(), credit):
            self.report()

    def _wanted(self) -> int:
        held = self._held.values()
        unfinished = sum(len(one.waiting) + one.running for one in held)
        uncommitted = sum(len(one.finished) + one.writing for one in held)
        return wanted_rows(credit_rows(self.model.shape.window, self._rate()), unfinished, uncommitted)

    def _rate(self) -> float:
        now_s = self._cluster.timeline.now_s
        while self._samples and now_s - self._samples[0][0] > RATE_SPAN_S:
            self._samples.popleft()
        if not self._samples or self._samples[-1][0] < now_s:
            self._samples.append((now_s, self._finished_rows))
        since_s, rows = self._samples[0]
        return (self._finished_rows - rows) / (now_s - since_s) if now_s > since_s else 0.0


class VirtualCluster:
    def __init__(self, shapes: Sequence[Shape], policy: Policy = POLICY) -> None:
        self.timeline = Timeline()
        self.state = State()
        self.lengths: dict[str, Sequence[int]] = {}  #: by batch: tokens of each row, which only engines know
        self.ended_s: dict[str, float] = {}
        self.policy = policy
        self._numbers = itertools.count(1)
        self.engines = [VirtualEngine(self, f"e{number}", shape) for number, shape in enumerate(shapes)]
        for number, engine in enumerate(self.engines):  # their heartbeats do not fall together
            self.timeline.after(number * SETTINGS.report_s / len(shapes), engine.beat)

    def create(self, lengths: Sequence[int], priority: int = 0) -> str:
        """A batch, taken in already; the scheduler is told the mean of its rows and no row's own length."""
        batch_id, file_id = self.draw("batch"), self.draw("file")
        self.lengths[batch_id] = lengths
        self.say(e.FileStored("r", File(file_id, "t", "batch", "in.jsonl", 1, WALL_AT)))
        asked = e.BatchAsked(
            reply_to="r",
            batch_id=batch_id,
            tenant="t",
            input_file_id=file_id,
            output_file_id=self.draw("file"),
            error_file_id=self.draw("file"),
            endpoint="/v1/chat/completions",
            completion_window="24h",
            completion_window_s=86_400.0,
            metadata=None,
            priority=priority,
            request_key=batch_id,
            idempotency_key=None,
            is_retry=False,
        )
        self.say(asked)
        self.say(e.IntakeEnded(batch_id, len(lengths), MODEL, sum(lengths), ()))
        for engine in self.engines:
            engine.report()
        return batch_id

    def run(self) -> None:
        """Until every batch has ended."""
        self.timeline.run(lambda: not self.state.active)

    def say(self, event: e.Event) -> Any:
        """One turn of the scheduler; what it answers."""
        now = e.Now(WALL_AT + self.timeline.now_s, self.timeline.now_s)
        active = tuple(self.state.active)
        decision = self.turn(event, now)
        for batch_id in active:
            if batch_id not in self.state.active:
                self.ended_s[batch_id] = self.timeline.now_s
        return next((one.value for one in decision.commands if isinstance(one, Reply)), None)

    def turn(self, event: e.Event, now: e.Now) -> Decision:
        """Decide and apply."""
        decision = decide(self.state, event, now, self.policy)
        for change in decision.changes:
            self.state.apply(change)
        return decision

    def draw(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"
