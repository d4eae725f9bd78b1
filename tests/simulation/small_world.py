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

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from raybatch.core import changes as c
from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.decide import decide, recover
from raybatch.core.holdings import Holdings
from raybatch.core.invariants import check_invariants
from raybatch.core.model import BatchStatus, ChunkState, File, PartFile, PartSlice, Tally
from raybatch.core.policy import Policy
from raybatch.core.rows import offsets_of
from raybatch.core.state import State

NOW: Final = e.Now(wall=0.0, mono=0.0)
LONG_AGO_MONO: Final = -1e9
POLICY: Final = Policy()
FIELDS: Final = [field.name for field in fields(State)]
MODEL, BATCH_ID = "m", "batch-1"


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as its engine sees it: bitmaps of rows to run, finished, in a part without a verdict."""

    chunk_id: int
    token: int
    first: int
    left: int
    finished: int = 0
    writing: int = 0

    @property
    def settled(self) -> bool:
        return not (self.left or self.finished or self.writing)


@dataclass(frozen=True, slots=True)
class Engine:
    life: int = 1
    seq: int = 0
    held: tuple[Held, ...] = ()
    reporting: bool = False  #: a report has no answer yet
    part: e.PartWritten | None = None  #: without a verdict yet

    def with_held(self, held: Iterable[Held]) -> Engine:
        return replace(self, held=tuple(one for one in held if not one.settled))


@dataclass(frozen=True, slots=True)
class Message:
    """Between an engine and the scheduler: an event, or what is answered to it."""

    engine: int
    life: int
    event: e.EngineReport | e.PartWritten
    answer: Any = None

    @property
    def kind(self) -> str:
        """What its engine waits for."""
        return "report" if isinstance(self.event, e.EngineReport) else "part"


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
        state = State()
        for event in _begun(rows):
            for change in decide(state, event, NOW, POLICY).changes:
                if not isinstance(change, c.Logged):
                    state.apply(change)
        self.first = World(state, state, (Engine(),) * engines, faults)

    # -- what may happen -----------------------------------------------------------------------------------

    def moves(self, world: World) -> Iterator[Move]:
        """With words for each, and what comes of it: that raises AssertionError when it must not come."""
        for number, engine in enumerate(world.engines):
            yield from self._moves_of(world, number, engine)
        for message in dict.fromkeys(world.network):
            if message.answer is None:
                words = f"scheduler hears {_told(message)}"
                yield words, lambda m=message: self._heard(_without(world, m), m)
        if world.disk is not world.memory:
            yield "the journal is fsynced", lambda: replace(world, disk=world.memory)
        if world.faults:
            yield from self._faults(replace(world, faults=world.faults - 1))

    def _moves_of(self, world: World, number: int, engine: Engine) -> Iterator[Move]:
        if not engine.reporting or not _under_way(world, number, "report"):
            yield f"e{number} reports", lambda: self._reports(world, number)
        for held in engine.held:
            if held.left:  # rows of one lease are alike: the first one finishes first
                words = f"e{number} has run row {held.first + _lowest(held.left)} under {held.token}"
                yield words, lambda held=held: _with_engine(world, number, _run(engine, held))
        if engine.part is None and any(held.finished for held in engine.held):
            yield f"e{number} writes a part and says so", lambda: self._writes(world, number)
        if engine.part is not None and not _under_way(world, number, "part"):
            yield f"e{number} says again that its part is there", lambda: _says_part(world, number)
        for message in dict.fromkeys(world.network):
            if message.engine == number and message.answer is not None:
                rest = _without(world, message)
                yield f"e{number} hears: {_told(message)}", lambda w=rest, m=message: self._hears(w, m)

    def _faults(self, world: World) -> Iterator[Move]:
        """``world``: with one fault fewer to come."""
        for number, engine in enumerate(world.engines):
            if engine.reporting and _under_way(world, number, "report"):
                yield f"FAULT e{number} waits no longer and reports", lambda n=number: self._reports(world, n)
            if engine.part is not None and _under_way(world, number, "part"):
                yield f"FAULT e{number} waits no longer for a verdict", lambda n=number: _says_part(world, n)
            yield f"FAULT e{number} dies and is born again", lambda n=number: _born_again(world, n)
        for message in dict.fromkeys(world.network):
            if message.answer is None:
                words, rest = f"FAULT scheduler hears {_told(message)}", _without(world, message)
                yield f"{words}, and will again", lambda m=message: self._heard(world, m)
                yield f"{words}, and dies unremembered", lambda w=rest: _restarted(w, w.disk)
                yield f"{words}, remembers, and dies unheard", lambda w=rest, m=message: self._unheard(w, m)
        yield "FAULT scheduler dies", lambda: _restarted(world, world.disk)
        for chunk in world.memory.chunks.values():
            if chunk.state is ChunkState.LEASED:
                words, late = f"FAULT the lease of chunk {chunk.chunk_id} runs out", chunk.chunk_id
                yield words, lambda late=late: self._ticked(world, _overdue(world.memory, late))
        for engine_id, entry in world.memory.engines.items():
            if not entry.lost:
                words = f"FAULT {engine_id} counts as lost"
                yield words, lambda engine_id=engine_id: self._ticked(world, _silent(world.memory, engine_id))

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
        return _restarted(replace(after, network=world.network, said=world.said), after.memory)

    def _ticked(self, world: World, memory: State) -> World:
        after, _ = self._turn(replace(world, memory=memory), e.Tick())
        return self.checked(after)

    def _turn(self, world: World, event: e.Event) -> tuple[World, list[cmd.Reply]]:
        memory = _copied(world.memory)
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
        listened = [one for one in answers if _listens(world, one)]
        return self.checked(replace(world, said=said, network=(*world.network, *listened)))

    # -- engines -------------------------------------------------------------------------------------------

    def _reports(self, world: World, number: int) -> World:
        engine = world.engines[number]
        engine = replace(engine, seq=engine.seq + 1, reporting=True)
        unfinished = sum(held.left.bit_count() for held in engine.held)
        report = e.EngineReport(
            reply_to="",
            engine_id=f"e{number}",
            incarnation=float(engine.life),
            seq=engine.seq,
            models=(MODEL,),
            phase=e.EnginePhase.READY,
            held=tuple(e.HeldLease(held.chunk_id, held.token) for held in engine.held),
            wants_rows=max(0, self._wants - unfinished),
            window=self._wants,
            running=0,
            rows_per_s=0.0,
            tokens_per_s=0.0,
            pid=1,
            child_pids=(),
        )
        after = _unanswered(_with_engine(world, number, engine), number, "report")
        return replace(after, network=(*after.network, Message(number, engine.life, report)))

    def _writes(self, world: World, number: int) -> World:
        engine = world.engines[number]
        pieces = tuple(
            PartSlice(one.chunk_id, one.token, one.first, one.finished, Tally(one.finished.bit_count()))
            for one in engine.held
            if one.finished
        )
        rows = ",".join(f"{piece.chunk_id}@{piece.token}={piece.rows:b}" for piece in pieces)
        part_id = f"e{number}.{engine.life}:{rows}"
        self._slices[part_id] = pieces
        count = sum(piece.rows.bit_count() for piece in pieces)
        part = PartFile(part_id, f"{part_id}.parquet", 1, count, "crc32c:0")
        written = e.PartWritten("", f"e{number}", BATCH_ID, part, pieces)
        held = [replace(one, finished=0, writing=one.writing | one.finished) for one in engine.held]
        after = _with_engine(world, number, replace(engine, part=written).with_held(held))
        return _says_part(replace(after, files=world.files | {part_id}), number)

    def _hears(self, world: World, message: Message) -> World:
        engine = world.engines[message.engine]
        if isinstance(message.event, e.EngineReport):
            return _with_engine(world, message.engine, _obeyed(engine, message.answer))
        part_id = message.event.part.part_id
        stale = all(verdict is cmd.Verdict.STALE for verdict in message.answer)
        settled = {piece.chunk_id: piece.rows for piece in message.event.slices}
        held = [replace(one, writing=one.writing & ~settled.get(one.chunk_id, 0)) for one in engine.held]
        after = _with_engine(world, message.engine, replace(engine, part=None).with_held(held))
        return self.checked(replace(after, files=world.files - {part_id} if stale else world.files))

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
        return sorted(
            piece.first + offset
            for part in state.parts.get(BATCH_ID, {}).values()
            for piece in self._slices[part.part_id]
            for offset in offsets_of(piece.rows)
            if piece.first + offset not in part.masked
        )

    # -- when two worlds are the same ----------------------------------------------------------------------

    def fingerprint(self, world: World) -> str:
        """Equal for worlds with the same future.

        Engines are alike; of tokens and of an engine's reports only the order counts.
        """
        states = [world.memory] if world.disk is world.memory else [world.memory, world.disk]
        tokens = {token for _, token in world.newest}
        for state in states:
            tokens.add(state.next_token)
            tokens.update(chunk.token for chunk in state.chunks.values())
        for engine in world.engines:
            tokens.update(held.token for held in engine.held)
        for message in world.network:
            tokens.update(_tokens(message))
        rank = {token: place for place, token in enumerate(sorted(tokens))}
        whole = (
            world.faults,
            world.said,
            [(chunk_id, rank[token]) for chunk_id, token in world.newest],
            [
                (
                    rank[state.next_token],
                    state.batches[BATCH_ID].cursor,
                    [
                        (one.chunk_id, one.state.value, rank[one.token], one.covered)
                        for one in state.chunks.values()
                    ],
                    self.served(state),
                )
                for state in states
            ],
        )
        engines = (self._side(world, states, number, rank) for number in range(len(world.engines)))
        return repr((whole, sorted(map(repr, engines))))

    def _side(self, world: World, states: list[State], number: int, rank: dict[int, int]) -> object:
        """All that concerns one engine."""
        engine, known = world.engines[number], world.memory.engines.get(f"e{number}")
        messages = [one for one in world.network if one.engine == number]
        reports = [one.event.seq for one in messages if isinstance(one.event, e.EngineReport)]
        seqs = {engine.seq, *reports, *([known.report.seq] if known else [])}
        order = {seq: place for place, seq in enumerate(sorted(seqs))}
        return (
            (engine.life, order[engine.seq], engine.reporting),
            engine.part and _places(states, engine.part.part),  # its rows are those being written
            [(one.chunk_id, rank[one.token], one.left, one.finished, one.writing) for one in engine.held],
            known and (known.lost, known.report.incarnation, order[known.report.seq]),
            [[one.chunk_id for one in state.leases_of(f"e{number}")] for state in states],
            sorted(self._mark(world, states, one, rank, order) for one in messages),
        )

    def _mark(
        self, world: World, states: list[State], message: Message, rank: dict[int, int], order: dict[int, int]
    ) -> str:
        who = message.life, message.kind, message.answer is not None, _listens(world, message)
        event, answer = message.event, message.answer
        if isinstance(event, e.EngineReport):
            if answer is None:
                held = [(one.chunk_id, rank[one.token]) for one in event.held]
                return repr((*who, order[event.seq], held, event.wants_rows))
            leases = [(one.chunk_id, rank[one.token], one.rows) for one in answer.leases]
            return repr((*who, leases, answer.dropped, answer.superseded))
        pieces = [(one.chunk_id, rank[one.token], one.rows) for one in event.slices]
        verdicts = [verdict.value for verdict in answer or ()]
        places = _places(states, event.part)
        return repr((*who, pieces, places, event.part.part_id in world.files, verdicts))


# -- beginnings and ends of lives --------------------------------------------------------------------------


def _begun(rows: int) -> tuple[e.Event, ...]:
    names = (BATCH_ID, "t", "file-1", "out-1", "err-1")
    return (
        e.FileStored("", File("file-1", "t", "batch", "in.jsonl", 1, 0.0)),
        e.BatchAsked("", *names, "/v1/chat/completions", "24h", 86_400.0, None, 0, "key", None, False),
        e.IntakeEnded(BATCH_ID, rows, MODEL, rows, ()),
    )


def _restarted(world: World, left: State) -> World:
    """A scheduler that knows what it finds; the first tick gives each lease its time."""
    memory = State()
    memory.load(left.images())
    for change in (*recover(memory).changes, *decide(memory, e.Tick(), NOW, POLICY).changes):
        memory.apply(change)
    return replace(world, memory=memory, disk=memory)


def _born_again(world: World, number: int) -> World:
    """What it said may still arrive; what is said to it has no hearer."""
    left = tuple(one for one in world.network if one.engine != number or one.answer is None)
    reborn = Engine(life=world.engines[number].life + 1)
    return _with_engine(replace(world, network=left), number, reborn)


# -- parts of moves ----------------------------------------------------------------------------------------


def _obeyed(engine: Engine, orders: cmd.EngineOrders) -> Engine:
    assert not orders.superseded, "an engine that lives is sent away"
    dropped = [replace(one, left=0) if one.chunk_id in orders.dropped else one for one in engine.held]
    still = {one.chunk_id for one in engine.held}
    taken = [
        Held(one.chunk_id, one.token, one.first, one.rows)
        for one in orders.leases
        if one.chunk_id not in still
    ]
    return replace(engine, reporting=False).with_held((*dropped, *taken))


def _run(engine: Engine, held: Held) -> Engine:
    row = held.left & -held.left
    ran = replace(held, left=held.left & ~row, finished=held.finished | row)
    return replace(engine, held=tuple(ran if one is held else one for one in engine.held))


def _says_part(world: World, number: int) -> World:
    """Once more: what is answered to an earlier asking has no hearer."""
    engine = world.engines[number]
    assert engine.part is not None
    part = replace(engine.part, reply_to=engine.part.reply_to + "I")
    after = _unanswered(_with_engine(world, number, replace(engine, part=part)), number, "part")
    return replace(after, network=(*after.network, Message(number, engine.life, part)))


def _unanswered(world: World, number: int, kind: str) -> World:
    """The engine waits no longer for the answer that is on its way."""
    left = tuple(
        one for one in world.network if one.answer is None or (one.engine, one.kind) != (number, kind)
    )
    return replace(world, network=left)


def _listens(world: World, message: Message) -> bool:
    engine = world.engines[message.engine]
    if isinstance(message.event, e.EngineReport):
        return (message.life, message.event.seq) == (engine.life, engine.seq)
    return message.event == engine.part


def _under_way(world: World, number: int, kind: str) -> bool:
    """What the engine asked last, or the answer: else it was lost with a scheduler, and the engine knows."""
    return any(one.engine == number and one.kind == kind and _listens(world, one) for one in world.network)


def _with_engine(world: World, number: int, engine: Engine) -> World:
    engines = (*world.engines[:number], engine, *world.engines[number + 1 :])
    return replace(world, engines=engines)


def _without(world: World, message: Message) -> World:
    place = world.network.index(message)
    return replace(world, network=world.network[:place] + world.network[place + 1 :])


def _copied(state: State) -> State:
    """Down to what is never changed in place."""
    known = {name: getattr(state, name) for name in FIELDS}
    copied = {name: _copy(value) if type(value) is dict else value for name, value in known.items()}
    holdings = (_copy(getattr(state.holdings, field.name)) for field in fields(Holdings))
    return State(**copied | {"holdings": Holdings(*holdings)})


def _copy(known: dict[Any, Any]) -> dict[Any, Any]:
    return {key: dict(value) if type(value) is dict else value for key, value in known.items()}


def _overdue(memory: State, chunk_id: int) -> State:
    late = _copied(memory)
    late.lease_deadlines[chunk_id] = LONG_AGO_MONO
    return late


def _silent(memory: State, engine_id: str) -> State:
    late = _copied(memory)
    late.engines[engine_id] = replace(late.engines[engine_id], seen_at_mono=LONG_AGO_MONO)
    return late


def _check_newest(newest: dict[int, int], commit: c.PartCommitted) -> None:
    for piece in commit.slices:
        last = newest.get(piece.chunk_id)
        assert piece.token == last, f"a part counts under token {piece.token}, the newest is {last}"


def _places(states: list[State], part: PartFile) -> list[bool]:
    """Whose manifest names it."""
    return [part.part_id in state.parts.get(BATCH_ID, {}) for state in states]


def _tokens(message: Message) -> list[int]:
    if isinstance(message.event, e.PartWritten):
        return [piece.token for piece in message.event.slices]
    given = message.answer.leases if message.answer is not None else message.event.held
    return [one.token for one in given]


def _lowest(rows: int) -> int:
    return (rows & -rows).bit_length() - 1


def _told(message: Message) -> str:
    who = f"e{message.engine}" + (f" (life {message.life})" if message.life > 1 else "")
    event, answer = message.event, message.answer
    if isinstance(event, e.PartWritten):
        rows = " and ".join(f"chunk {one.chunk_id} under {one.token}" for one in event.slices)
        return f"part of {who}, {rows}" if answer is None else ", ".join(map(str, answer))
    if answer is None:
        held = " and ".join(f"chunk {one.chunk_id} under {one.token}" for one in event.held) or "nothing"
        return f"report {event.seq} of {who}, holding {held}, wanting {event.wants_rows} rows"
    run = [f"run chunk {one.chunk_id} under {one.token}" for one in answer.leases]
    drop = [f"drop chunk {chunk_id}" for chunk_id in answer.dropped]
    return ", ".join((*run, *drop)) or "no change"
