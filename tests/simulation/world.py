"""A small deterministic world around the real ``decide``: clients, engines and chores whose words are lost,
repeated and reordered, engines that are born again or come back as zombies, a scheduler that forgets what it
did not remember, a network that is cut for a while, clocks that are set.

One seed is one history. Each step draws from a stream of its own, so that a history can be played again
without some of its steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Final

from raybatch.core import changes as c
from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.decide import decide, recover
from raybatch.core.invariants import check_invariants
from raybatch.core.model import Batch, LineError, ModelSpan, PartFile
from raybatch.core.policy import Policy
from raybatch.core.rows import offsets_of
from raybatch.core.state import Image, State
from raybatch.ledger.contract import Ledger
from raybatch.ledger.memory import MemoryLedger
from tests.simulation.clients import Clients
from tests.simulation.engine import DiskRow, Finished, SimEngine, part_of
from tests.simulation.judge import (
    check_deadlines,
    check_leases,
    check_models,
    check_predecessors,
    check_served,
    check_swap,
    check_tokens,
    rows_of,
)
from tests.simulation.transcript import Transcript

POLICY: Final = Policy(
    lease_s=10.0,
    engine_silent_s=8.0,
    chore_s=30.0,
    compaction_fan_in=3,
    restart_window_s=60.0,
    restarts_free=2,
    restart_hold_max_s=8.0,
    turn_s=12.0,
    turn_loads_min=3.0,
    model_retry_s=15.0,
    expire_unfinished=True,
)
MODELS: Final = ("small", "large")
SLOT_MODELS: Final = ("small", "large", "huge")
MIXED_ROWS: Final = (90, 301)  #: uploads with so many rows name all models
STEPS: Final = 700
CHECK_EVERY_STEPS: Final = 25
ROUNDS_MAX: Final = 300
TURNS_MAX: Final = 100_000  #: of one exchange of messages without a fault

Step = tuple[int, str]  #: its number, which is what it draws from, and what happens
Plan = Sequence[Step]

#: what may happen in a step, and how often it does beside the others
ACTIONS: Final = {
    "deliver": 30,
    "deliver_reply": 30,
    "deliver_again": 3,
    "engine_reports": 14,
    "engine_runs": 16,
    "engine_flushes": 16,
    "chore_runs": 8,
    "time_passes": 8,
    "client_creates": 3,
    "client_cancels": 1,
    "client_retries": 1,
    "client_pauses": 1,
    "client_deletes_a_file": 1,
    "client_deletes_a_batch": 1,
    "engine_is_born_again": 1,
    "scheduler_dies": 1,
    "clock_is_set": 1,
    "network_is_cut": 1,
}


class Broken(AssertionError):
    """A history in which something did not hold: what must never happen did (safety), or what must happen
    did not (liveness).
    """

    def __init__(self, world: World, error: Exception) -> None:
        self.seed, self.slots, self.error = world.seed, world.slots, error
        self.played = world.played
        self.kind = "liveness" if isinstance(error, Stuck) else "safety"
        when = "with faults" if world.faults else "after the faults had stopped"
        shown = str(error) if isinstance(error, AssertionError) and str(error) else repr(error)
        super().__init__(f"seed {world.seed}: {self.kind}, {when}, at commit {world.seq}: {shown}")


class Stuck(AssertionError):
    """Nothing is broken, and no end in sight."""


def plan_of(seed: int, steps: int = STEPS) -> Plan:
    names = Random(f"plan {seed}").choices(list(ACTIONS), list(ACTIONS.values()), k=steps)
    return list(enumerate(names))


def durable(state: State) -> tuple[object, ...]:
    """What a restart must bring back, order included where a decision depends on it.

    Batches are in the order of their ``created_at``, as the ledger has them. In the state, which a start
    makes from the journal, those created before the wall clock was set back come first all the same.
    """
    batches = dict(sorted(state.batches.items(), key=lambda item: item[1].created_at))
    parts = {batch_id: parts for batch_id, parts in state.parts.items() if parts}
    return (
        state.files,
        list(batches.items()),
        state.chunks,
        parts,
        state.next_token,
        state.next_chunk_id,
        state.redrives,
        state.log,
        state.subject_log,
        state.rates,
        state.next_entry_id,
        state.all_paused,
        [batch_id for batch_id in batches if batch_id in state.active],
    )


def live(
    seed: int, slots: int = 0, plan: Plan | None = None, told: Transcript | None = None, every: int = 0
) -> World:
    """A whole history: some time with faults, then without. Raises Broken, naming the seed.

    ``plan``: the steps to play of it, all without one. ``every``: so many steps the judge looks once.
    """
    world = World(seed, slots=slots, told=told)
    try:
        world.play(plan_of(seed) if plan is None else plan, every or CHECK_EVERY_STEPS)
        world.settle()
    except Exception as error:
        raise Broken(world, error) from error
    return world


class World:
    def __init__(
        self, seed: int, ledger: Ledger | None = None, *, slots: int = 0, told: Transcript | None = None
    ) -> None:
        """``slots``: engines that serve three models in turns, instead of some that serve one of two each."""
        self.seed, self.slots = seed, slots
        self.rng = Random(seed)
        self.told = told
        self.ledger = ledger or MemoryLedger()
        self.state = State()
        self.seq = 0
        self.history: list[tuple[tuple[c.DurableChange, ...], tuple[Image, ...]]] = []
        self.clock_s = 1_000_000.0
        self.ahead_s = 0.0  #: the wall clock, of the true one
        self.boot_s = 0.0  #: the scheduler's monotonic clock starts anywhere
        self.faults = True
        self.to_scheduler: list[e.Event] = []
        self.echoes: list[e.Event] = []  #: messages that may arrive once more
        self.replies: list[cmd.Reply] = []
        self.chores: list[cmd.Command] = []
        self.disk: dict[str, list[DiskRow]] = {}
        self.removed_blobs: set[str] = set()
        self.deleted: set[str] = set()
        self.uploads: dict[str, tuple[int, bool]] = {}  #: by file: its rows, and whether they are sound
        self.ended: dict[tuple[str, int], Batch] = {}  #: by id and round
        self.began_s: dict[str, float] = {}  #: by batch: when its completion window did
        self.lease_ends_s: dict[int, float] = {}  #: by chunk, as this scheduler's life has promised
        self.heard: dict[str, float] = {}  #: by engine: the newest life that this scheduler's life heard of
        self.newest_token = 0
        self.played = 0  #: steps
        self.cut_until_s: dict[str, float] = {}  #: by engine: while nothing gets through to it or from it
        self.models = SLOT_MODELS if slots else MODELS
        self.engines = [
            SimEngine(f"slot{i}", 0.0, None, self.rng, slot=True).born_again() for i in range(slots)
        ] or [
            SimEngine(f"e{i}", 1.0, MODELS[i % 2] if i < 2 else self.rng.choice(MODELS), self.rng)
            for i in range(self.rng.choice((2, 3)))
        ]
        self.swaps: list[tuple[float, str]] = []  #: when which slot ended for another model
        self.zombies: list[SimEngine] = []
        self._drawn = 0

    # -- running -------------------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """Faults and all."""
        self.play(plan_of(self.seed, steps))

    def play(self, plan: Plan, check_every: int = CHECK_EVERY_STEPS) -> None:
        clients = Clients(self)
        for played, (number, name) in enumerate(plan):
            self.rng.seed(self.seed * 1_000_003 + number)
            self.clock_s += self.rng.random() * 0.05
            if name.startswith("client_"):
                getattr(clients, name.removeprefix("client_"))()
            else:
                getattr(self, f"_{name}")()
            self.played = played + 1
            if played % check_every == 0:
                check_served(self)
        check_served(self)

    def settle(self) -> None:
        """Faults stop; every batch must end."""
        self.tell("the faults stop")
        self.faults = False
        self.rng.seed(self.seed)
        self.cut_until_s.clear()
        self.zombies.clear()
        self.to_scheduler = [event for event in self.to_scheduler if not isinstance(event, e.PauseAsked)]
        for batch_id in (None, *self.state.batches):
            self.happen(e.PauseAsked("client", "t", batch_id, False))
        for _ in range(ROUNDS_MAX):
            self.clock_s += 1.0
            self.happen(e.Tick())
            for engine in self.engines:
                engine.load(self.clock_s, fails=False)
                self.happen(engine.report(wants_rows=64, now_s=self.clock_s))
            self._drain_messages()
            for engine in self.engines:
                while any(held.left for held in engine.held.values()):
                    engine.run_rows()
                self._flush(engine)
                self.to_scheduler.extend(engine.unacknowledged.values())
            while self.chores:
                self._chore_runs()
            self._drain_messages()
            self._swap_slots()
            if not self.state.active and not self.chores and not self.state.chores:
                break
        check_served(self)
        left = [self.state.batches[batch_id] for batch_id in self.state.active]
        if left:
            named = ", ".join(
                f"{one.batch_id} {one.status} {one.finished_rows} of {one.total} rows" for one in left
            )
            raise Stuck(f"still active after {ROUNDS_MAX} rounds without a fault: {named}")

    def happen(self, event: e.Event) -> None:
        """One turn of the scheduler: decide, apply, remember, speak; it may die between any two of them."""
        decision = decide(self.state, event, self._now(), POLICY)
        if self.told is not None:
            self.told.decided(self.clock_s, self.state, event, decision)
        if isinstance(event, e.EngineReport):
            check_swap(self.state, event, decision.commands, POLICY)
            check_models(self, event, decision.commands)
            check_predecessors(self, event, decision.commands)
        images = tuple(image for change in decision.changes for image in self.state.apply(change))
        check_leases(self, event, decision.changes, POLICY)
        if self.chance(0.004):
            self.tell("the scheduler dies before it remembers that")
            self._restart_scheduler()
            return
        self._commit(decision.changes, images)
        check_invariants(self.state)
        if self.chance(0.004):
            self.tell("the scheduler dies before it says so")
            self._restart_scheduler()
            return
        for command in decision.commands:
            self._obey(command)

    # -- the scheduler -------------------------------------------------------------------------------------

    def _now(self) -> e.Now:
        return e.Now(wall=self.clock_s + self.ahead_s, mono=self.clock_s - self.boot_s)

    def _clock_is_set(self) -> None:
        """And seen to be: a scheduler that is started meanwhile believes whatever the clock says."""
        if self.state.clock_offset_s is None:
            return
        by_s = self.rng.choice((-7200.0, 7200.0, 1e9))
        known = len(self.history)
        self.ahead_s += by_s
        self.tell(f"the wall clock is set by {by_s:+,.0f} s")
        self.happen(e.Tick())
        moved = any(isinstance(one, c.ClockJumped) for changes, _ in self.history[known:] for one in changes)
        if self.state.clock_offset_s is None and not moved:
            self.ahead_s -= by_s

    def _commit(self, changes: tuple[c.Change, ...], images: tuple[Image, ...]) -> None:
        remembered = tuple(change for change in changes if c.is_durable(change))
        assert bool(remembered) == bool(images)
        if not images:
            return
        self.seq += 1
        self.ledger.commit(self.seq, images)
        self.history.append((remembered, images))
        self.deleted |= {change.batch_id for change in remembered if isinstance(change, c.BatchDeleted)}
        check_tokens(self, remembered)
        check_deadlines(self, remembered)

    def _scheduler_dies(self) -> None:
        if self.chance(0.5):
            self.tell("the scheduler dies")
            self._restart_scheduler()

    def _network_is_cut(self) -> None:
        """Between one engine and the scheduler, both ways."""
        engine, for_s = self._any_engine(), self.rng.choice((2.0, 9.0, 30.0))
        self.cut_until_s[engine.engine_id] = self.clock_s + for_s
        self.tell(f"{engine.engine_id} is cut off for {for_s:.0f} s")

    def _is_cut(self, engine_id: str) -> bool:
        return self.clock_s < self.cut_until_s.get(engine_id, 0.0)

    def _restart_scheduler(self) -> None:
        self.boot_s = self.clock_s - self.rng.random() * 1000.0
        self.state = State()
        self.lease_ends_s.clear()
        self.heard.clear()
        remembered = self.ledger.load()
        assert remembered.seq == self.seq
        self.state.load(remembered.images)
        if self.chance(0.7):
            self.chores.clear()
        decision = recover(self.state)
        images = tuple(image for change in decision.changes for image in self.state.apply(change))
        self._commit(decision.changes, images)
        check_invariants(self.state)

    def _obey(self, command: cmd.Command) -> None:
        match command:
            case cmd.Reply():
                self.replies.append(command)
            case cmd.StartIntake() | cmd.StartClosing() | cmd.StartCompaction():
                self.chores.append(command)
            case cmd.RemoveParts():
                for path in command.paths:
                    self.disk.pop(path, None)
            case cmd.RemoveBatch():
                for path in command.paths:
                    self.disk.pop(path, None)
            case cmd.RemoveBlob():
                self.removed_blobs.add(command.file_id)

    # -- messages ------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """The next message to the scheduler, or a later one; perhaps never, perhaps again."""
        if not self.to_scheduler:
            return
        place = self._place(len(self.to_scheduler))
        event = self.to_scheduler.pop(place)
        if self.chance(0.1):
            self.echoes.append(event)
        if self._is_cut(sender_of(event)) or self.chance(0.1):
            self.tell(f"lost: {type(event).__name__} of {sender_of(event)}")
        else:
            self.happen(event)

    def _deliver_again(self) -> None:
        """Something said long ago."""
        if self.echoes:
            event = self.rng.choice(self.echoes)
            if not (isinstance(event, e.BatchAsked) and event.batch_id in self.deleted):
                self.tell("once more, what was said before:")
                self.happen(event)  # nobody deletes a batch while asking for it

    def _deliver_reply(self) -> None:
        if not self.replies:
            return
        place = self._place(len(self.replies))
        reply = self.replies[place]
        if not self.chance(0.1):
            del self.replies[place]
        if not self.chance(0.1):
            self._hear(reply)

    def _drain_messages(self) -> None:
        for _ in range(TURNS_MAX):
            if not self.to_scheduler and not self.replies:
                return
            while self.replies:
                self._hear(self.replies.pop(0))
            if self.to_scheduler:
                self.happen(self.to_scheduler.pop(0))
        raise Stuck(f"{TURNS_MAX} messages without a fault, and still more: {self.to_scheduler[:1]}")

    def _hear(self, reply: cmd.Reply) -> None:
        kind, _, rest = reply.reply_to.partition("/")
        for engine in (*self.engines, *self.zombies):
            if self._is_cut(engine.engine_id):
                continue
            if kind == "engine" and isinstance(reply.value, cmd.EngineOrders):
                if rest.startswith(f"{engine.engine_id}/{engine.incarnation}/"):
                    engine.obey(reply.value, self.clock_s, self.models[0])
            elif kind == "part" and isinstance(reply.value, tuple):
                engine.learn(rest.partition("/")[2], reply.value)

    # -- engines -------------------------------------------------------------------------------------------

    def _engine_reports(self) -> None:
        engine = self._any_engine()
        gives_up = self.chance(0.1)  # on the answer to its last report
        if not engine.superseded and (gives_up or not engine.waits_for_orders):
            wants_rows = self.rng.choice((0, 8, 64))
            self.to_scheduler.append(engine.report(wants_rows=wants_rows, now_s=self.clock_s))

    def _engine_runs(self) -> None:
        engine = self._any_engine()
        before = len(engine.finished)
        engine.run_rows()
        if len(engine.finished) > before:
            self.tell(f"{engine.engine_id} has run {len(engine.finished) - before} rows")

    def _engine_flushes(self) -> None:
        engine = self._any_engine()
        self._flush(engine)
        if engine.unacknowledged:  # asked again until there is a verdict
            self.to_scheduler.append(self.rng.choice(list(engine.unacknowledged.values())))

    def _flush(self, engine: SimEngine) -> None:
        flushed = engine.flush()
        if flushed is not None:
            written, rows = flushed
            self.disk[written.part.path] = rows

    def _engine_is_born_again(self) -> None:
        place = self.rng.randrange(len(self.engines))
        old = self.engines[place]
        self.engines[place] = old.born_again()
        left_behind = self.chance(0.5)
        if left_behind:
            self.zombies.append(old)
        self.tell(f"{old.engine_id} is born again" + (", its predecessor lives on" if left_behind else ""))

    def _swap_slots(self) -> None:
        """Models are loaded, or are not; a slot that has left its model is born again for the next one."""
        for place, engine in enumerate(self.engines):
            engine.load(self.clock_s, fails=self.chance(0.1))
            if engine.over(self.clock_s):
                if engine.phase is e.EnginePhase.DRAINING:
                    self.swaps.append((self.clock_s, engine.engine_id))
                self.to_scheduler.append(engine.last_word(self.clock_s))
                self.engines[place] = engine.born_again()

    def _any_engine(self) -> SimEngine:
        return self.rng.choice([*self.engines, *self.zombies])

    # -- chores --------------------------------------------------------------------------------------------

    def _chore_runs(self) -> None:
        """To its verdict, or not: it may break, vanish, or run twice."""
        if not self.chores:
            return
        command = self.rng.choice(self.chores)
        if not self.chance(0.1):
            self.chores.remove(command)
        fate = self.rng.random() if self.faults else 1.0
        if fate < 0.1:
            return
        verdict: e.Event | None
        match command:
            case cmd.StartIntake(batch_id):
                chore, verdict = f"intake:{batch_id}", self._take_in(batch_id)
            case cmd.StartClosing(batch_id):
                chore, verdict = f"closing:{batch_id}", self._close(command, broken=fate < 0.2)
            case cmd.StartCompaction(batch_id):
                chore, verdict = f"compaction:{batch_id}", self._compact(command)
            case _:
                raise AssertionError(command)
        broke = e.ChoreBroke(chore, "it broke")
        self.to_scheduler.append(broke if verdict is None or fate < 0.2 else verdict)

    def _take_in(self, batch_id: str) -> e.IntakeEnded:
        if batch_id in self.deleted:  # and its upload may be, too
            return e.IntakeEnded(batch_id, 0, None, 0, (LineError("invalid_request", "gone", None, 1),))
        file_id = self.state.batches[batch_id].input_file_id
        assert file_id not in self.removed_blobs
        total, sound = self.uploads[file_id]
        if not sound:
            return e.IntakeEnded(batch_id, 0, None, 0, (LineError("invalid_json", "no", None, 1),))
        spans = self.spans(total)
        several = spans if len(spans) > 1 else ()
        return e.IntakeEnded(batch_id, total, None if several else spans[0].model, 10 * total, (), several)

    def spans(self, total: int) -> tuple[ModelSpan, ...]:
        """Which models the rows of an upload of this size name; of some sizes all models."""
        if total not in MIXED_ROWS:
            return (ModelSpan(self.models[total % len(self.models)], 0, total, 10 * total),)
        ends = [total * number // len(self.models) for number in range(len(self.models) + 1)]
        return tuple(
            ModelSpan(model, first, end - first, 10 * (end - first))
            for model, (first, end) in zip(self.models, pairwise(ends), strict=True)
        )

    def _close(self, command: cmd.StartClosing, *, broken: bool) -> e.PartWritten:
        leases = command.leases[: len(command.leases) // 2] if broken else command.leases
        rows = [
            Finished(lease.batch_id, lease.chunk_id, lease.token, lease.first, row)
            for lease in leases
            for offset in offsets_of(lease.rows)
            for row in (DiskRow(lease.first + offset, False, 7),)
        ]
        written = part_of(command.batch_id, f"closing-{self.draw()}", rows, "closing/")
        self.disk[written.part.path] = [one.row for one in rows]
        return written

    def _compact(self, command: cmd.StartCompaction) -> e.PartsCompacted | None:
        """The same parts make the same file, whoever merges them and how often."""
        if any(part.path not in self.disk for part in command.parts):
            return None
        part_id = "+".join(sorted(part.part_id for part in command.parts))
        rows = [row for part in command.parts for row in rows_of(part, self.disk)]
        level = 1 + max(part.level for part in command.parts)
        path = f"results/{command.batch_id}/{part_id}.parquet"
        self.disk[path] = rows
        part = PartFile(part_id, path, 1, len(rows), "crc32c:0", level)
        return e.PartsCompacted(command.batch_id, part, tuple(part.part_id for part in command.parts))

    # -- telling -------------------------------------------------------------------------------------------

    def tell(self, what: str) -> None:
        if self.told is not None:
            self.told.happened(self.clock_s, what)

    # -- time and chance ------------------------------------------------------------------------------------

    def _time_passes(self) -> None:
        self.clock_s += self.rng.choice((0.2, 1.0, 1.0, 4.0, 12.0))
        self.happen(e.Tick())
        self._swap_slots()

    def chance(self, probability: float) -> bool:
        return self.faults and self.rng.random() < probability

    def _place(self, length: int) -> int:
        return self.rng.randrange(length) if self.chance(0.3) else 0

    def draw(self) -> int:
        self._drawn += 1
        return self._drawn


def sender_of(event: e.Event) -> str:
    """The engine that says so, or else what does."""
    match event:
        case e.EngineReport():
            return event.engine_id
        case e.PartWritten() if event.reply_to.startswith("part/"):
            return event.reply_to.split("/")[1]
        case e.PartWritten() | e.IntakeEnded() | e.PartsCompacted() | e.ChoreBroke():
            return "a chore"
        case _:
            return "a client"
