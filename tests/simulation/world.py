"""A small deterministic world around the real ``decide``: clients, engines and chores whose words are lost,
repeated and reordered, engines that are born again or come back as zombies, a scheduler that forgets what it
did not remember, a network that is cut for a while, clocks that are set. Here are the scheduler, the engines
and the time; the others have files of their own.

One seed is one history. Each step draws from a stream of its own, so that a history can be played again
without some of its steps.
"""

from __future__ import annotations

from random import Random
from typing import Final

from raybatch.core import changes as c
from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.decide import decide, recover
from raybatch.core.invariants import check_invariants
from raybatch.core.model import Batch
from raybatch.core.policy import Policy
from raybatch.core.state import Image, State
from raybatch.ledger.contract import Ledger
from raybatch.ledger.memory import MemoryLedger
from tests.simulation.chores import Chores
from tests.simulation.clients import Clients
from tests.simulation.engine import DiskRow, SimEngine
from tests.simulation.judge import (
    Stuck,
    check_deadlines,
    check_leases,
    check_models,
    check_predecessors,
    check_served,
    check_swap,
    check_tokens,
)
from tests.simulation.models import MODELS, SLOT_MODELS
from tests.simulation.network import Network
from tests.simulation.plan import Plan, plan_of
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
CHECK_EVERY_STEPS: Final = 25
ROUNDS_MAX: Final = 300


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
        self.network = Network(self)
        self.chores = Chores(self)
        self.clients = Clients(self)
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
        for played, (number, name) in enumerate(plan):
            self.rng.seed(self.seed * 1_000_003 + number)
            self.clock_s += self.rng.random() * 0.05
            who, _, what = name.partition(".")
            getattr(self if who == "world" else getattr(self, who), what)()
            self.played = played + 1
            if played % check_every == 0:
                check_served(self)
        check_served(self)

    def settle(self) -> None:
        """Faults stop; every batch must end."""
        self.tell("the faults stop")
        self.faults = False
        self.rng.seed(self.seed)
        self.network.heal()
        self.zombies.clear()
        for batch_id in (None, *self.state.batches):
            self.happen(e.PauseAsked("client", "t", batch_id, False))
        for _ in range(ROUNDS_MAX):
            self.clock_s += 1.0
            self.happen(e.Tick())
            for engine in self.engines:
                engine.load(self.clock_s, fails=False)
                self.happen(engine.report(wants_rows=64, now_s=self.clock_s))
            self.network.drain()
            for engine in self.engines:
                while any(held.left for held in engine.held.values()):
                    engine.run_rows()
                self._flush(engine)
                self.network.to_scheduler.extend(engine.unacknowledged.values())
            while self.chores.waiting:
                self.chores.run_one()
            self.network.drain()
            self._swap_slots()
            if not self.state.active and not self.chores.waiting and not self.state.chores:
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

    def clock_is_set(self) -> None:
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

    def scheduler_dies(self) -> None:
        if self.chance(0.5):
            self.tell("the scheduler dies")
            self._restart_scheduler()

    def _restart_scheduler(self) -> None:
        self.boot_s = self.clock_s - self.rng.random() * 1000.0
        self.state = State()
        self.lease_ends_s.clear()
        self.heard.clear()
        remembered = self.ledger.load()
        assert remembered.seq == self.seq
        self.state.load(remembered.images)
        if self.chance(0.7):
            self.chores.waiting.clear()
        decision = recover(self.state)
        images = tuple(image for change in decision.changes for image in self.state.apply(change))
        self._commit(decision.changes, images)
        check_invariants(self.state)

    def _obey(self, command: cmd.Command) -> None:
        match command:
            case cmd.Reply():
                self.network.replies.append(command)
            case cmd.StartIntake() | cmd.StartClosing() | cmd.StartCompaction():
                self.chores.waiting.append(command)
            case cmd.RemoveParts():
                for path in command.paths:
                    self.disk.pop(path, None)
            case cmd.RemoveBatch():
                for path in command.paths:
                    self.disk.pop(path, None)
            case cmd.RemoveBlob():
                self.removed_blobs.add(command.file_id)

    # -- engines -------------------------------------------------------------------------------------------

    def engine_reports(self) -> None:
        engine = self.any_engine()
        gives_up = self.chance(0.1)  # on the answer to its last report
        if not engine.superseded and (gives_up or not engine.waits_for_orders):
            wants_rows = self.rng.choice((0, 8, 64))
            self.network.say(engine.report(wants_rows=wants_rows, now_s=self.clock_s))

    def engine_runs(self) -> None:
        engine = self.any_engine()
        before = len(engine.finished)
        engine.run_rows()
        if len(engine.finished) > before:
            self.tell(f"{engine.engine_id} has run {len(engine.finished) - before} rows")

    def engine_flushes(self) -> None:
        engine = self.any_engine()
        self._flush(engine)
        if engine.unacknowledged:  # asked again until there is a verdict
            self.network.say(self.rng.choice(list(engine.unacknowledged.values())))

    def _flush(self, engine: SimEngine) -> None:
        flushed = engine.flush()
        if flushed is not None:
            written, rows = flushed
            self.disk[written.part.path] = rows

    def engine_is_born_again(self) -> None:
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
                self.network.say(engine.last_word(self.clock_s))
                self.engines[place] = engine.born_again()

    def any_engine(self) -> SimEngine:
        return self.rng.choice([*self.engines, *self.zombies])

    # -- telling -------------------------------------------------------------------------------------------

    def tell(self, what: str) -> None:
        if self.told is not None:
            self.told.happened(self.clock_s, what)

    # -- time and chance ------------------------------------------------------------------------------------

    def time_passes(self) -> None:
        self.clock_s += self.rng.choice((0.2, 1.0, 1.0, 4.0, 12.0))
        self.happen(e.Tick())
        self._swap_slots()

    def chance(self, probability: float) -> bool:
        return self.faults and self.rng.random() < probability

    def draw(self) -> int:
        self._drawn += 1
        return self._drawn
