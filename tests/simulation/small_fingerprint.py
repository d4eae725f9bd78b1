"""When two small worlds are the same: they have the same future."""

from __future__ import annotations

from collections.abc import Callable

from raybatch.core import events as e
from raybatch.core.model import PartFile
from raybatch.core.state import State
from tests.simulation.small_engine import Engine
from tests.simulation.small_message import Message
from tests.simulation.small_state import BATCH_ID
from tests.simulation.small_world import World


def fingerprint(world: World, served: Callable[[State], list[int]]) -> str:
    """Equal for worlds with the same future. ``served``: the rows that a manifest says are committed.

    Engines are alike; of tokens and of an engine's reports only the order counts.
    """
    states = [world.memory] if world.disk is world.memory else [world.memory, world.disk]
    rank = {token: place for place, token in enumerate(sorted(_tokens(world, states)))}
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
                served(state),
            )
            for state in states
        ],
    )
    engines = (_side(world, states, engine, rank) for engine in world.engines)
    return repr((whole, sorted(map(repr, engines))))


def _tokens(world: World, states: list[State]) -> set[int]:
    """Every token that anybody in the world knows, and the next."""
    tokens = {token for _, token in world.newest}
    for state in states:
        tokens.add(state.next_token)
        tokens.update(chunk.token for chunk in state.chunks.values())
    for engine in world.engines:
        tokens.update(held.token for held in engine.held)
    for message in world.network:
        tokens.update(message.tokens)
    return tokens


def _side(world: World, states: list[State], engine: Engine, rank: dict[int, int]) -> object:
    """All that concerns one engine."""
    known = world.memory.engines.get(engine.engine_id)
    messages = [one for one in world.network if one.engine == engine.number]
    reports = [one.event.seq for one in messages if isinstance(one.event, e.EngineReport)]
    seqs = {engine.seq, *reports, *([known.report.seq] if known else [])}
    order = {seq: place for place, seq in enumerate(sorted(seqs))}
    return (
        (engine.life, order[engine.seq], engine.reporting),
        engine.part and _manifests(states, engine.part.part),  # its rows are those being written
        [(one.chunk_id, rank[one.token], one.left, one.finished, one.writing) for one in engine.held],
        known and (known.lost, known.report.incarnation, order[known.report.seq]),
        [[one.chunk_id for one in state.leases_of(engine.engine_id)] for state in states],
        sorted(_mark(world, states, one, rank, order) for one in messages),
    )


def _mark(
    world: World, states: list[State], message: Message, rank: dict[int, int], order: dict[int, int]
) -> str:
    event, answer = message.event, message.answer
    who = message.life, message.kind, answer is not None, world.engines[message.engine].listens(message)
    if isinstance(event, e.EngineReport):
        if answer is None:
            held = [(one.chunk_id, rank[one.token]) for one in event.held]
            return repr((*who, order[event.seq], held, event.wants_rows))
        leases = [(one.chunk_id, rank[one.token], one.rows) for one in answer.leases]
        return repr((*who, leases, answer.dropped, answer.superseded))
    pieces = [(one.chunk_id, rank[one.token], one.rows) for one in event.slices]
    verdicts = [verdict.value for verdict in answer or ()]
    exists = event.part.part_id in world.files
    return repr((*who, pieces, _manifests(states, event.part), exists, verdicts))


def _manifests(states: list[State], part: PartFile) -> list[bool]:
    """Whose manifest names it."""
    return [part.part_id in state.parts.get(BATCH_ID, {}) for state in states]
