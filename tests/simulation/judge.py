"""What must hold in the simulated world, whatever happened: told from its manifest and its disk alone.

Owes nothing to the state's own invariants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raybatch.core import changes as c
from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.chores import BURIAL, CLOSING
from raybatch.core.model import TERMINAL, Batch, BatchStatus, ChunkState, PartFile
from raybatch.core.policy import Policy
from raybatch.core.rounds import visible_parts
from raybatch.core.rows import offsets_of
from raybatch.core.state import State
from tests.simulation.engine import DiskRow, tally_of
from tests.simulation.models import spans_of

if TYPE_CHECKING:
    from tests.simulation.world import World

MOMENT_S: Final = 0.001


class Stuck(AssertionError):
    """Nothing is broken, and no end in sight."""


def check_served(world: World) -> None:
    """What a reader of the manifest finds: every counted row once, nothing else, and files that exist."""
    state = world.state
    for batch in state.batches.values():
        rows = served_rows(world, batch.batch_id, batch.round)
        positions = [row.position for row in rows]
        assert len(positions) == len(set(positions)), f"{batch.batch_id}: a row is served twice"
        assert tally_of(rows) == batch.tally, f"{batch.batch_id}: {tally_of(rows)} served, {batch.tally}"
        if batch.status in (BatchStatus.COMPLETED, BatchStatus.CANCELLED, BatchStatus.EXPIRED):
            assert sorted(positions) == list(range(batch.total)), f"{batch.batch_id}: rows are missing"
            _check_file(state, batch, batch.output_file_id, batch.tally.completed, batch.tally.output_bytes)
            _check_file(state, batch, batch.error_file_id, batch.tally.failed, batch.tally.error_bytes)
        key = batch.batch_id, batch.round
        if batch.status in TERMINAL:
            assert world.ended.setdefault(key, batch) == batch, "a batch changed after its end"
        else:
            assert key not in world.ended, "a batch came back after its end without a retry"
            assert batch.input_file_id not in world.removed_blobs, "the upload of a live batch is gone"
    assert world.deleted.isdisjoint(state.batches), "a deleted batch came back"
    for file in state.files.values():
        if file.batch_id is not None:
            assert file.batch_id in state.batches, f"{file.file_id} outlives its batch"
            shown = served_rows(world, file.batch_id, file.round)
            kind = [row.size_bytes for row in shown if row.ok == (file.part_kind == "output")]
            assert sum(kind) == file.size_bytes, f"{file.file_id} shows other bytes than it did at first"


def check_deadlines(world: World, changes: tuple[c.DurableChange, ...]) -> None:
    """No window is cut short, whatever the wall clock showed meanwhile."""
    for change in changes:
        match change:
            case c.BatchCreated(batch):
                world.began_s[batch.batch_id] = world.clock_s
            case c.BatchReopened(batch_id):
                world.began_s[batch_id] = world.clock_s
            case c.BatchExpiring(batch_id):
                ran_s = world.clock_s - world.began_s[batch_id]
                window_s = world.state.batches[batch_id].completion_window_s
                assert ran_s >= window_s - 0.001, f"{batch_id} expires after {ran_s:.1f} s of {window_s}"


def check_tokens(world: World, changes: tuple[c.DurableChange, ...]) -> None:
    """A token is given once, and each is larger than all before it."""
    for change in changes:
        if isinstance(change, c.LeaseGranted):
            newest = world.newest_token
            assert change.token > newest, (
                f"chunk {change.chunk_id} is leased under {change.token} after {newest}"
            )
            world.newest_token = change.token


def check_leases(world: World, event: e.Event, changes: tuple[c.Change, ...], policy: Policy) -> None:
    """Time alone ends a lease, and does: after its whole period of true seconds, and at the next tick."""
    ends_s, chunks = world.lease_ends_s, world.state.chunks
    for change in changes:
        match change:
            case c.LeaseReleased(chunk_id) if isinstance(event, e.Tick):
                early_s = ends_s.pop(chunk_id, float("inf")) - world.clock_s
                assert early_s <= MOMENT_S, (
                    f"the lease of chunk {chunk_id} is ended {early_s:.1f} s too early"
                )
            case c.LeaseRenewed(chunk_id) if chunk_id in chunks:
                by_chore = (chunks[chunk_id].engine_id or "").startswith((CLOSING, BURIAL))
                ends_s[chunk_id] = world.clock_s + (policy.chore_s if by_chore else policy.lease_s)
    if isinstance(event, e.Tick):
        for chunk_id, chunk in chunks.items():
            late_s = world.clock_s - ends_s.get(chunk_id, world.clock_s)
            leased = chunk.state is ChunkState.LEASED
            assert not leased or late_s <= MOMENT_S, f"chunk {chunk_id} is held {late_s:.1f} s too long"


def check_predecessors(world: World, report: e.EngineReport, commands: tuple[cmd.Command, ...]) -> None:
    """Once an engine's new process was heard, its old one is sent away, unless the engine counts as lost."""
    known = world.state.engines.get(report.engine_id)
    newest = world.heard.get(report.engine_id, report.incarnation)
    if known is None or known.lost or report.incarnation >= newest:
        world.heard[report.engine_id] = report.incarnation
        return
    orders = [one.value for one in commands if isinstance(one, cmd.Reply)]
    sent_away = all(isinstance(one, cmd.EngineOrders) and one.superseded for one in orders)
    assert sent_away, f"{report.engine_id}: life {report.incarnation:g} is served beside life {newest:g}"


def check_swap(
    state: State, report: e.EngineReport, commands: tuple[cmd.Command, ...], policy: Policy
) -> None:
    """A slot leaves a model only for one with work, and its own unfinished work only after its turn."""
    told = [one.value.model for one in commands if isinstance(one, cmd.Reply) and one.value.model]
    if not told or report.phase is not e.EnginePhase.READY:
        return
    priorities = _waiting_priorities(state)
    assert told[0] in priorities, f"{report.engine_id} is to serve {told[0]}, which nobody waits for"
    mine = priorities.get(report.models[0])
    if mine is None:
        assert not report.held, f"{report.engine_id} is to leave rows of {report.models[0]}"
    elif priorities[told[0]] <= mine:
        assert report.ready_s >= policy.turn_s, f"{report.engine_id} swaps after {report.ready_s:.1f} s"


def check_models(world: World, report: e.EngineReport, commands: tuple[cmd.Command, ...]) -> None:
    """An engine gets rows of its model alone."""
    orders = [one.value for one in commands if isinstance(one, cmd.Reply)]
    given = [lease for one in orders if isinstance(one, cmd.EngineOrders) for lease in one.leases]
    for lease in given:
        if lease.input_file_id not in world.uploads:
            continue
        spans = spans_of(world.models, world.uploads[lease.input_file_id][0])
        positions = [lease.first + offset for offset in offsets_of(lease.rows)]
        named = {span.model for span in spans if any(map(span.holds, positions))}
        assert named == set(report.models[:1]), f"{report.engine_id} is given rows of {named}"


def served_rows(world: World, batch_id: str, round_: int) -> list[DiskRow]:
    """What the files of that round show."""
    parts = world.state.parts.get(batch_id, {}).values()
    redrives = world.state.redrives.get(batch_id, {}).values()
    return [row for part in visible_parts(parts, redrives, round_) for row in rows_of(part, world.disk)]


def rows_of(part: PartFile, disk: dict[str, list[DiskRow]]) -> list[DiskRow]:
    """Of one file, those that are not masked."""
    assert part.path in disk, f"the manifest names {part.path}, which was removed"
    masked = set(part.masked)
    rows = disk[part.path]
    assert len(rows) == part.rows
    return [row for row in rows if row.position not in masked]


def _waiting_priorities(state: State) -> dict[str, int]:
    """Of the models that have rows nobody holds: the highest priority."""
    found: dict[str, int] = {}
    for batch in state.batches.values():
        if batch.status is not BatchStatus.IN_PROGRESS or batch.paused_at is not None:
            continue
        leased = [one for one in state.live_chunks(batch.batch_id) if one.state is ChunkState.LEASED]
        for span in batch.by_model:
            held = sum(chunk.missing.bit_count() for chunk in leased if span.holds(chunk.first))
            if span.finished + held < span.count:
                found[span.model] = max(batch.priority, found.get(span.model, batch.priority))
    return found


def _check_file(state: State, batch: Batch, file_id: str, rows: int, size_bytes: int) -> None:
    file = state.files.get(file_id)
    assert (file is not None) == (rows > 0), f"{batch.batch_id}: {rows} rows, file {file}"
    assert file is None or file.size_bytes == size_bytes, f"{batch.batch_id}: {file}"
