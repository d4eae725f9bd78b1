"""Which rows are to blame when an engine dies, and how the innocent get away.

Once means nothing: the rows in flight simply run again. Rows present at two deaths are suspects. They run in
groups, each alone on an engine, so that a death narrows them down to one group and a group that ends without
one is innocent. A row that killed alone twice is not run again. Groups are an eighth, not a half: loading a
model takes longer than running a few rows, so few deaths matter more than few runs (one guilty row among 128:
six deaths instead of ten).

Suspects and ordinary rows take turns on an engine, for a batch must not wait for another one's poison.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from raybatch.core.changes import DeathBlamed
from raybatch.core.events import EnginePhase, EngineReport, Now
from raybatch.core.leasing import has_rows
from raybatch.core.model import BatchStatus, Chunk, ChunkState
from raybatch.core.policy import Policy
from raybatch.core.rows import bitmap_of, offsets_of
from raybatch.core.state import State


@dataclass(frozen=True, slots=True)
class Turn:
    """What an engine may be given now."""

    suspects: Chunk | None = None  #: this chunk and nothing else
    ordinary: bool = True
    begins: bool | None = None  #: a turn begins now: True the suspects', False the ordinary rows'


# -- whose fault -------------------------------------------------------------------------------------------


def blamed(state: State, report: EngineReport, policy: Policy) -> dict[int, DeathBlamed]:
    """What the death of an engine means for the leases it held, by chunk id."""
    if report.phase is not EnginePhase.DIED:
        return {}
    fallen = [
        (chunk, lot.rows & chunk.missing)
        for lot in report.in_flight
        if (chunk := state.chunks.get(lot.chunk_id)) is not None
        and (chunk.state, chunk.token, chunk.engine_id) == (ChunkState.LEASED, lot.token, report.engine_id)
        and lot.rows & chunk.missing
    ]
    fallen = list({chunk.chunk_id: (chunk, rows) for chunk, rows in fallen}.values())
    twice = {chunk.chunk_id: rows & chunk.exposed for chunk, rows in fallen}
    size = max(1, -(-sum(rows.bit_count() for rows in twice.values()) // policy.suspect_groups))
    found = {}
    for chunk, rows in fallen:
        alone = chunk.suspect and len(fallen) == 1 and rows == chunk.missing and rows.bit_count() == 1
        groups = () if alone else tuple(_groups(twice[chunk.chunk_id], size))
        found[chunk.chunk_id] = DeathBlamed(chunk.chunk_id, chunk.token, rows, groups, alone)
    return found


def _groups(rows: int, size: int) -> Iterator[int]:
    offsets = list(offsets_of(rows))
    for first in range(0, len(offsets), size):
        yield bitmap_of(offsets[first : first + size])


# -- whose turn --------------------------------------------------------------------------------------------


def turn(state: State, report: EngineReport, now: Now, policy: Policy) -> Turn:
    """What an engine that wants rows may be given."""
    held = [state.chunks[lease.chunk_id] for lease in report.held if lease.chunk_id in state.chunks]
    if any(chunk.suspect for chunk in held):
        return Turn(ordinary=False)
    waiting = next(_waiting(state, report, policy), None)
    if waiting is None or _in_the_lane(state, report):
        return Turn()
    known = state.lanes.get(report.engine_id)
    lane = known is None or known.quarantine  # an engine that has just started is empty: suspects go first
    over = known is not None and now.mono - known.at_mono > policy.lane_turn_s
    has_ordinary = has_rows(state, report)
    if lane and over and has_ordinary:
        return Turn(begins=False)
    if not lane and not over and has_ordinary:
        return Turn()
    if held or report.running:
        return Turn(ordinary=False)  # it runs empty first
    return Turn(suspects=waiting, ordinary=False, begins=None if lane and known is not None else True)


def beyond_help(state: State, batch_id: str, policy: Policy) -> tuple[Chunk, ...]:
    """Chunks of single rows that will not run again."""
    return tuple(
        chunk for chunk in state.available_chunks(batch_id) if chunk.alone_deaths >= policy.alone_deaths_max
    )


def _waiting(state: State, report: EngineReport, policy: Policy) -> Iterator[Chunk]:
    for batch_id in state.active:
        batch = state.batches[batch_id]
        if batch.status is not BatchStatus.IN_PROGRESS or batch.paused_at is not None:
            continue
        for chunk in state.available_chunks(batch_id):
            if (
                chunk.suspect
                and chunk.alone_deaths < policy.alone_deaths_max
                and _of_model(state, chunk, report)
            ):
                yield chunk


def _in_the_lane(state: State, report: EngineReport) -> bool:
    """Another engine of this model has suspects already: one at a time, the others go on with their work."""
    return any(
        _of_model(state, chunk, report)
        for chunk in state.chunks.values()
        if chunk.suspect and chunk.state is ChunkState.LEASED and chunk.engine_id != report.engine_id
    )


def _of_model(state: State, chunk: Chunk, report: EngineReport) -> bool:
    return state.batches[chunk.batch_id].span_at(chunk.first).model in report.models
