"""A world small enough to try everything in: some rows, some engines, and so many faults at any moments.

What is decided is decided by production code: ``decide``, ``recover`` and ``State`` are the scheduler here.
Around them stand what they rest on, each mirrored as far as it concerns a lease:

- ``Scheduler.run``: a turn decides, remembers, speaks, and may die between any two of them; a file that a
  part names is looked for first;
- ``DurableMemory``: after a death the scheduler is what the fsynced journal says, and nothing else;
- ``EngineLoop._report``, ``_obey``, ``_take_lease``, ``RowWindow``, ``PartCommits._commit_part``: one report
  and one part at a time, asked again until there is an answer, and only the last asking is listened for; a
  lease of a chunk that is still held is not taken; rows of a dropped lease stop, and those that had finished
  are still offered; a part nobody wants is removed.

Between decision and answer nobody sees a turn, so one turn is one move. Time does not pass: a lease may run
out, and an engine count as lost, whenever it pleases, as one of the faults. Requests overtake each other
freely; one that is never delivered is lost. No log, no second batch, no chore, no row that kills its engine:
the simulated world has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from raybatch.core import changes as c
from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.decide import decide
from raybatch.core.invariants import check_invariants
from raybatch.core.model import BatchStatus, ChunkState, PartSlice
from raybatch.core.rows import offsets_of
from raybatch.core.state import State
from tests.simulation.small_engine import Engine
from tests.simulation.small_message import Asked, Message, kind_of
from tests.simulation.small_state import (
    BATCH_ID,
    NOW,
    POLICY,
    begun,
    copied,
    overdue,
    recovered,
    silent,
)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    memory: State  #: of the scheduler, never changed here
    disk: State  #: as the fsynced journal has it
    engines: tuple[Engine, ...]
    faults: int  #: that may still happen
    network: tuple[Message, ...] = ()
    files: frozenset[str] = frozenset()  #: parts on disk, by id
    said: int = 0  #: bitmap of positions that somebody was told are committed
    newest: tuple[tuple[int, int], ...] = ()  #: by chunk: the last token that was remembered

    @property
    def over(self) -> bool:
        """Every row is committed, for good."""
        return self.disk.batches[BATCH_ID].status is BatchStatus.COMPLETED

    def under_way(self, engine: Engine, kind: str) -> bool:
        """What it asked last, or the answer: else it was lost with a scheduler, and the engine knows."""
        return any(
            one.engine == engine.number and one.kind == kind and engine.listens(one) for one in self.network
        )

    def with_engine(self, engine: Engine) -> World:
        engines = (*self.engines[: engine.number], engine, *self.engines[engine.number + 1 :])
        return replace(self, engines=engines)

    def with_asked(self, engine: Engine, event: Asked) -> World:
        """The engine waits no longer for the answer to an earlier asking, should it be on its way."""
        asking = engine.number, kind_of(event)
        left = (one for one in self.network if one.answer is None or (one.engine, one.kind) != asking)
        network = (*left, Message(engine.number, engine.life, event))
        return replace(self.with_engine(engine), network=network)

    def without(self, message: Message) -> World:
        place = self.network.index(message)
        return replace(self, network=self.network[:place] + self.network[place + 1 :])

    def with_born_again(self, engine: Engine) -> World:
        """What it said may still arrive; what is said to it has no hearer."""
        left = tuple(one for one in self.network if one.engine != engine.number or one.answer is None)
        return replace(self, network=left).with_engine(engine.born_again())

    def with_scheduler_of(self, left: State) -> World:
        """One that has just started and found this."""
        memory = recovered(left)
        return replace(self, memory=memory, disk=memory)


Move = tuple[str, Callable[[], World]]


class SmallWorld:
    """The rules. ``wants``: rows an engine holds at most, thus also the rows of a chunk.

    ``answers_first``: a known bug, the answer leaves before it is remembered.
    """

    def __init__(
        self, rows: int, engines: int, faults: int, wants: int, *, answers_first: bool = False
    ) -> None:
        self._wants = wants
        self._answers_first = answers_first
        self._slices: dict[str, tuple[PartSlice, ...]] = {}  #: by part id, which says it all
        state = begun(rows)
        self.first = World(state, state, tuple(Engine(number) for number in range(engines)), faults)

    # -- what may happen -----------------------------------------------------------------------------------

    def moves(self, world: World) -> Iterator[Move]:
        """With words for each, and what comes of it: that raises AssertionError when it must not come."""
        for engine in world.engines:
            yield from self._moves_of(world, engine)
        for message in dict.fromkeys(world.network):
            if message.answer is None:
                words = f"scheduler hears {message.told()}"
                yield words, lambda m=message: self._heard(world.without(m), m)
        if world.disk is not world.memory:
            yield "the journal is fsynced", lambda: replace(world, disk=world.memory)
        if world.faults:
            yield from self._faults(replace(world, faults=world.faults - 1))

    def _moves_of(self, world: World, engine: Engine) -> Iterator[Move]:
        name = engine.engine_id
        if not engine.reporting or not world.under_way(engine, "report"):
            yield f"{name} reports", lambda: self._reports(world, engine)
        for held in engine.held:
            if held.left:
                words = f"{name} has run row {held.next_row} under {held.token}"
                yield words, lambda held=held: world.with_engine(engine.after_a_row(held))
        if engine.part is None and any(held.finished for held in engine.held):
            yield f"{name} writes a part and says so", lambda: self._writes(world, engine)
        if engine.part is not None and not world.under_way(engine, "part"):
            yield f"{name} says again that its part is there", lambda: self._says_part(world, engine)
        for message in dict.fromkeys(world.network):
            if message.engine == engine.number and message.answer is not None:
                yield f"{name} hears: {message.told()}", lambda m=message: self._hears(world.without(m), m)

    def _faults(self, world: World) -> Iterator[Move]:
        """``world``: with one fault fewer to come."""
        for engine in world.engines:
            name = f"FAULT {engine.engine_id}"
            if engine.reporting and world.under_way(engine, "report"):
                yield f"{name} waits no longer and reports", lambda one=engine: self._reports(world, one)
            if engine.part is not None and world.under_way(engine, "part"):
                yield f"{name} waits no longer for a verdict", lambda one=engine: self._says_part(world, one)
            yield f"{name} dies and is born again", lambda one=engine: world.with_born_again(one)
        for message in dict.fromkeys(world.network):
            if message.answer is None:
                words, rest = f"FAULT scheduler hears {message.told()}", world.without(message)
                yield f"{words}, and will again", lambda m=message: self._heard(world, m)
                yield f"{words}, and dies unremembered", lambda w=rest: w.with_scheduler_of(w.disk)
                yield f"{words}, remembers, and dies unheard", lambda w=rest, m=message: self._unheard(w, m)
        yield "FAULT scheduler dies", lambda: world.with_scheduler_of(world.disk)
        for chunk in world.memory.chunks.values():
            if chunk.state is ChunkState.LEASED:
                words, late = f"FAULT the lease of chunk {chunk.chunk_id} runs out", chunk.chunk_id
                yield words, lambda late=late: self._ticked(world, overdue(world.memory, late))
        for engine_id, entry in world.memory.engines.items():
            if not entry.lost:
                words = f"FAULT {engine_id} counts as lost"
                yield words, lambda engine_id=engine_id: self._ticked(world, silent(world.memory, engine_id))

    # -- the scheduler -------------------------------------------------------------------------------------

    def _heard(self, world: World, message: Message) -> World:
        """``world``: without the message, if it is not to come again."""
        event = message.event
        if isinstance(event, e.PartWritten) and event.part.part_id not in world.files:
            return world  # NotFound: only a part that was judged stale was removed
        after, replies = self._turn(world, event)
        if after.memory is not world.memory and self._answers_first:
            after = replace(after, disk=world.disk)
        return self._spoken(after, [replace(message, answer=reply.value) for reply in replies])

    def _unheard(self, world: World, message: Message) -> World:
        after = self._heard(world, message)
        return replace(after, network=world.network, said=world.said).with_scheduler_of(after.memory)

    def _ticked(self, world: World, memory: State) -> World:
        after, _ = self._turn(replace(world, memory=memory), e.Tick())
        return self.checked(after)

    def _turn(self, world: World, event: e.Event) -> tuple[World, list[cmd.Reply]]:
        memory = copied(world.memory)
        decision = decide(memory, event, NOW, POLICY)
        newest = dict(world.newest)
        for change in decision.changes:
            if isinstance(change, c.LeaseGranted):
                last = max(newest.values(), default=0)
                assert change.token > last, f"token {change.token} is given after {last}"
                newest[change.chunk_id] = change.token
            if isinstance(change, c.PartCommitted):
                _check_newest(newest, change)
            if not isinstance(change, c.Logged):
                memory.apply(change)
        check_invariants(memory)
        replies = [command for command in decision.commands if isinstance(command, cmd.Reply)]
        return replace(world, memory=memory, disk=memory, newest=tuple(sorted(newest.items()))), replies

    def _spoken(self, world: World, answers: list[Message]) -> World:
        said = world.said
        for message in answers:
            if isinstance(message.event, e.PartWritten):
                for piece, verdict in zip(message.event.slices, message.answer, strict=True):
                    if verdict is not cmd.Verdict.STALE:
                        said |= piece.rows << piece.first
        listened = [one for one in answers if world.engines[one.engine].listens(one)]
        return self.checked(replace(world, said=said, network=(*world.network, *listened)))

    # -- engines -------------------------------------------------------------------------------------------

    def _reports(self, world: World, engine: Engine) -> World:
        asking = engine.reporting_anew()
        return world.with_asked(asking, asking.report(self._wants))

    def _writes(self, world: World, engine: Engine) -> World:
        writing = engine.writing_a_part()
        assert writing.part is not None
        part_id = writing.part.part.part_id
        self._slices[part_id] = writing.part.slices
        return self._says_part(replace(world, files=world.files | {part_id}), writing)

    def _says_part(self, world: World, engine: Engine) -> World:
        saying = engine.saying_its_part()
        assert saying.part is not None
        return world.with_asked(saying, saying.part)

    def _hears(self, world: World, message: Message) -> World:
        engine, event = world.engines[message.engine], message.event
        if isinstance(event, e.EngineReport):
            return world.with_engine(engine.obeying(message.answer))
        stale = all(verdict is cmd.Verdict.STALE for verdict in message.answer)
        files = world.files - {event.part.part_id} if stale else world.files
        return self.checked(replace(world.with_engine(engine.judged(event)), files=files))

    # -- what must hold ------------------------------------------------------------------------------------

    def checked(self, world: World) -> World:
        """What a reader of the manifest finds: each row once, all that was said, and files that exist."""
        parts = world.memory.parts.get(BATCH_ID, {})
        missing = sorted(parts.keys() - world.files)
        assert not missing, f"the manifest names {missing[0]}, which was removed"
        rows = self.served(world.memory)
        assert len(rows) == len(set(rows)), f"a row is committed twice: {rows}"
        unsaid = [row for row in offsets_of(world.said) if row not in rows]
        assert not unsaid, f"row {unsaid[0]} was said to be committed, and is not"
        return world

    def served(self, state: State) -> list[int]:
        """The rows that the manifest says are committed, as often as it says so."""
        return sorted(
            piece.first + offset
            for part in state.parts.get(BATCH_ID, {}).values()
            for piece in self._slices[part.part_id]
            for offset in offsets_of(piece.rows)
            if piece.first + offset not in part.masked
        )


def _check_newest(newest: dict[int, int], commit: c.PartCommitted) -> None:
    for piece in commit.slices:
        last = newest.get(piece.chunk_id)
        assert piece.token == last, f"a part counts under token {piece.token}, the newest is {last}"
