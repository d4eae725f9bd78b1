"""One event in, one decision out: what changes, and what to say once the changes are remembered.

Pure: the state is read, never changed here; time comes in with the event. The main path of a batch, top to
bottom: asked for, taken in, leased, committed, ended.
"""

from __future__ import annotations

from dataclasses import replace

from raybatch.core import asked
from raybatch.core import changes as c
from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.admission import too_many_tokens
from raybatch.core.chores import (
    BURIAL,
    CLOSING,
    CLOSING_REASONS,
    closing,
    compaction,
    due_burial,
    due_closing,
    due_compaction,
    due_expiry,
    due_intake,
    intake,
)
from raybatch.core.deadline import jumped
from raybatch.core.decision import Decision
from raybatch.core.ending import ended
from raybatch.core.leasing import grant, grant_chunk, held_up, lease_of
from raybatch.core.logbook import entries
from raybatch.core.model import BatchStatus, ChunkState, PartFile, PartSlice
from raybatch.core.placement import just_failed, model_for
from raybatch.core.policy import Policy
from raybatch.core.quarantine import blamed, turn
from raybatch.core.retention import outlived
from raybatch.core.rows import offsets_of
from raybatch.core.state import State


def decide(state: State, event: e.Event, now: e.Now, policy: Policy) -> Decision:
    decision = _decided(state, event, now, policy)
    changes = (*jumped(state, now), *decision.changes)
    return replace(decision, changes=(*changes, *entries(state, changes, now)))


def _decided(state: State, event: e.Event, now: e.Now, policy: Policy) -> Decision:
    match event:
        case e.UploadArriving(file_id, path):
            return Decision((), (cmd.StartReadAhead(file_id, path),))
        case e.FileStored():
            return asked.store_file(state, event, policy)
        case e.FileDeletionAsked():
            return asked.delete_file(state, event)
        case e.BatchAsked():
            return asked.create_batch(state, event, now, policy)
        case e.IntakeEnded():
            return _take_in(state, event, now, policy)
        case e.EngineReport():
            return _answer_engine(state, event, now, policy)
        case e.PartWritten():
            return _commit_part(state, event, now)
        case e.PartsCompacted():
            return _replace_parts(state, event)
        case e.CancelAsked():
            return asked.cancel_batch(state, event, now)
        case e.BatchDeletionAsked():
            return asked.delete_batch(state, event, now)
        case e.RetentionDue():
            return outlived(state, now, policy)
        case e.RetryAsked():
            return asked.retry_batch(state, event, now, policy)
        case e.PauseAsked():
            return asked.pause(state, event, now)
        case e.DrainAsked():
            return asked.drain(state, event)
        case e.ChoreBroke():
            return _mend_chore(state, event)
        case e.SurroundingsSeen():
            return Decision((c.SurroundingsNoted(event),))
        case e.RatesMeasured(rates):
            return Decision(tuple(c.RateNoted(rate) for rate in rates if state.rates.get(rate.model) != rate))
        case e.Tick():
            return _tick(state, now, policy)


def recover(state: State) -> Decision:
    """After a start: leases of background closings are taken back, for no such chore survived."""
    changes = tuple(
        c.LeaseReleased(chunk.chunk_id, chunk.token)
        for chunk in state.chunks.values()
        if chunk.state is ChunkState.LEASED and (chunk.engine_id or "").startswith((CLOSING, BURIAL))
    )
    return Decision(changes)


# -- taken in ----------------------------------------------------------------------------------------------


def _take_in(state: State, verdict: e.IntakeEnded, now: e.Now, policy: Policy) -> Decision:
    done = c.ChoreNoted(intake(verdict.batch_id), None)
    batch = state.batches.get(verdict.batch_id)
    if batch is None or batch.status is not BatchStatus.VALIDATING:
        return Decision((done,))
    if verdict.errors:
        return Decision((done, c.BatchFailed(batch.batch_id, verdict.errors, now.wall)))
    refused = too_many_tokens(state, batch, verdict, policy)
    if refused is not None:
        return Decision((done, c.BatchFailed(batch.batch_id, (refused,), now.wall)))
    models = [span.model for span in verdict.spans] if verdict.model is None else [verdict.model]
    assert models
    validated = c.BatchValidated(
        batch.batch_id, verdict.total, verdict.model, verdict.expected_tokens, now.wall, verdict.spans
    )
    return Decision((done, validated), tuple(cmd.WakeEngines(model) for model in models))


# -- leased ------------------------------------------------------------------------------------------------


def _answer_engine(state: State, report: e.EngineReport, now: e.Now, policy: Policy) -> Decision:
    known = state.engines.get(report.engine_id)
    if known is not None and not known.lost and report.incarnation < known.report.incarnation:
        return Decision(commands=(cmd.Reply(report.reply_to, cmd.EngineOrders(superseded=True)),))
    reborn = known is None or report.incarnation != known.report.incarnation
    crashed = reborn and (known is None or known.report.phase is not e.EnginePhase.STOPPED)
    if known is not None and not reborn and report.seq <= known.report.seq:
        share = _window_share(state, policy)
        orders = cmd.EngineOrders(window_share=share, drain=state.draining, stay_idle=True)
        return Decision(commands=(cmd.Reply(report.reply_to, orders),))

    starts = known.starts if known is not None else ()
    if crashed:
        starts = (*(at for at in starts if now.mono - at < policy.restart_window_s), now.mono)
    model = model_for(state, report, now, policy)
    not_loading = (e.EnginePhase.IDLE, e.EnginePhase.DRAINING, e.EnginePhase.STOPPED)
    still_ordered = known.ordered if known is not None and report.phase in not_loading else None
    seen = c.EngineSeen(report, now.mono, starts, model or still_ordered)

    held = {lease.chunk_id: lease.token for lease in report.held}
    mine = {chunk.chunk_id: chunk for chunk in state.leases_of(report.engine_id)}
    kept = {chunk_id for chunk_id, chunk in mine.items() if held.get(chunk_id) == chunk.token}
    ending = {
        chunk_id for chunk_id in kept if state.batches[mine[chunk_id].batch_id].status in CLOSING_REASONS
    }
    blame = blamed(state, report, policy)
    released = tuple(
        blame.get(chunk_id, c.LeaseReleased(chunk_id, chunk.token))
        for chunk_id, chunk in mine.items()
        if chunk_id not in kept
    )
    # not those of a batch about to end: whatever becomes of the engine, it ends within one lease's time
    renewed = tuple(c.LeaseRenewed(chunk_id, now.mono + policy.lease_s) for chunk_id in sorted(kept - ending))
    granted: tuple[c.LeaseGranted, ...] = ()
    turns: tuple[c.LaneTurn, ...] = ()
    left_rows: int | None = None
    if report.phase is e.EnginePhase.READY and model is None and not held_up(state):
        freed = frozenset(end.chunk_id for end in released)
        granted, left_rows, turns = _rows_for(state, report, freed, now, policy)
    orders = cmd.EngineOrders(
        leases=tuple(lease_of(state, lease) for lease in granted),
        left_rows=left_rows,
        dropped=tuple(sorted((held.keys() - kept) | ending)),
        give_back=tuple(sorted(chunk_id for chunk_id in kept if _paused(state, mine[chunk_id].batch_id))),
        window_share=_window_share(state, policy),
        model=model,
        stay_idle=held_up(state) or just_failed(state, now, policy),
        drain=state.draining,
        hold_s=_hold_s(starts, policy) if crashed else 0.0,
    )
    deadlines = tuple(c.LeaseRenewed(lease.chunk_id, now.mono + policy.lease_s) for lease in granted)
    changes = (seen, *released, *renewed, *turns, *granted, *deadlines)
    return Decision(changes, (cmd.Reply(report.reply_to, orders),))


def _rows_for(
    state: State, report: e.EngineReport, freed: frozenset[int], now: e.Now, policy: Policy
) -> tuple[tuple[c.LeaseGranted, ...], int | None, tuple[c.LaneTurn, ...]]:
    """Ordinary rows and how many are left, or a group of suspects by itself, or nothing until the engine is
    empty for them."""
    if not report.wants_rows:
        return (), None, ()
    due = turn(state, report, now, policy)
    turns = () if due.begins is None else (c.LaneTurn(report.engine_id, due.begins, now.mono),)
    if due.suspects is not None:
        return (grant_chunk(state, due.suspects, report.engine_id),), None, turns
    if not due.ordinary:
        return (), None, turns
    granted, left_rows = grant(state, report, freed)
    return granted, left_rows, turns


def _paused(state: State, batch_id: str) -> bool:
    return held_up(state) or state.batches[batch_id].paused_at is not None


def _window_share(state: State, policy: Policy) -> float:
    gentle = state.surroundings is not None and state.surroundings.quiet is e.QuietMode.GENTLE
    return policy.gentle_share if gentle else 1.0


def _hold_s(starts: tuple[float, ...], policy: Policy) -> float:
    """Doubling from one second once the free starts of the window are used up."""
    excess = len(starts) - policy.restarts_free
    return min(policy.restart_hold_max_s, 2.0 ** (excess - 1)) if excess > 0 else 0.0


# -- committed ---------------------------------------------------------------------------------------------


def _commit_part(state: State, written: e.PartWritten, now: e.Now) -> Decision:
    batch = state.batches.get(written.batch_id)
    if batch is None:
        verdicts = tuple(cmd.Verdict.STALE for _ in written.slices)
        return Decision(commands=(cmd.Reply(written.reply_to, verdicts),))
    if written.part.part_id in state.parts.get(batch.batch_id, {}):
        verdicts = tuple(cmd.Verdict.ALREADY for _ in written.slices)
        return Decision(commands=(cmd.Reply(written.reply_to, verdicts),))
    verdicts = tuple(_verdict(state, written, piece) for piece in written.slices)
    accepted = tuple(
        piece
        for piece, verdict in zip(written.slices, verdicts, strict=True)
        if verdict is cmd.Verdict.ACCEPTED
    )
    reply = cmd.Reply(written.reply_to, verdicts)
    if not accepted:
        return Decision(commands=(reply,))
    part = _manifest_row(written.part, written.slices, verdicts, batch.round)
    committed = c.PartCommitted(batch.batch_id, part, accepted)
    tally = sum((piece.tally for piece in accepted), batch.tally)
    if tally.completed + tally.failed < batch.total:
        return Decision((committed,), (reply,))
    done = c.ChoreNoted(closing(batch.batch_id), None)
    return Decision((committed, done, *ended(batch, tally, now)), (reply,))


def _verdict(state: State, written: e.PartWritten, piece: PartSlice) -> cmd.Verdict:
    """Only the newest token counts, and no row counts twice."""
    chunk = state.chunks.get(piece.chunk_id)
    if chunk is None or chunk.state is not ChunkState.LEASED or chunk.token != piece.token:
        return cmd.Verdict.STALE
    if (chunk.batch_id, chunk.first) != (written.batch_id, piece.first) or piece.rows >> chunk.count:
        return cmd.Verdict.STALE
    if sum(_overlap(other, piece) for other in written.slices) > 1:
        return cmd.Verdict.STALE  # a row that lies in the file twice cannot be masked once
    finished = piece.tally.completed + piece.tally.failed
    if piece.rows.bit_count() != finished or min(piece.tally.completed, piece.tally.failed) < 0:
        return cmd.Verdict.STALE
    return cmd.Verdict.ALREADY if piece.rows & chunk.covered else cmd.Verdict.ACCEPTED


def _overlap(left: PartSlice, right: PartSlice) -> bool:
    return left.chunk_id == right.chunk_id and left.rows & right.rows != 0


def _manifest_row(
    part: PartFile, slices: tuple[PartSlice, ...], verdicts: tuple[cmd.Verdict, ...], round_: int
) -> PartFile:
    refused = [
        piece.first + offset
        for piece, verdict in zip(slices, verdicts, strict=True)
        if verdict is not cmd.Verdict.ACCEPTED
        for offset in offsets_of(piece.rows)
    ]
    return replace(part, masked=tuple(sorted(refused)), round=round_)


def _replace_parts(state: State, compacted: e.PartsCompacted) -> Decision:
    done = c.ChoreNoted(compaction(compacted.batch_id), None)
    parts = state.parts.get(compacted.batch_id, {})
    if compacted.part.part_id in parts:
        return Decision((done,))
    if any(part_id not in parts for part_id in compacted.replaced):
        return Decision((done,), (cmd.RemoveParts(compacted.batch_id, (compacted.part.path,)),))
    part = replace(compacted.part, round=parts[compacted.replaced[0]].round)
    replaced_paths = tuple(parts[part_id].path for part_id in compacted.replaced)
    return Decision(
        (done, c.PartsReplaced(compacted.batch_id, part, compacted.replaced)),
        (cmd.RemoveParts(compacted.batch_id, replaced_paths),),
    )


# -- time --------------------------------------------------------------------------------------------------


def _tick(state: State, now: e.Now, policy: Policy) -> Decision:
    changes: list[c.Change] = []
    commands: list[cmd.Command] = []
    for engine_id, entry in state.engines.items():
        if not entry.lost and now.mono - entry.seen_at_mono > policy.engine_silent_s:
            changes.append(c.EngineLost(engine_id))
            commands.append(cmd.EndEngine(engine_id, entry.report.pid, entry.report.machine))
    for chunk in state.chunks.values():
        if chunk.state is not ChunkState.LEASED:
            continue
        deadline_mono = state.lease_deadlines.get(chunk.chunk_id)
        if deadline_mono is None:  # granted before this process started: engines get one period to claim it
            changes.append(c.LeaseRenewed(chunk.chunk_id, now.mono + policy.lease_s))
        elif deadline_mono < now.mono:
            changes.append(c.LeaseReleased(chunk.chunk_id, chunk.token))
    freed = frozenset(change.chunk_id for change in changes if isinstance(change, c.LeaseReleased))
    next_token = state.next_token
    for batch_id in state.active:
        batch = state.batches[batch_id]
        for due in (
            due_intake(state, batch, now, policy),
            due_expiry(state, batch, now, policy),
            due_closing(state, batch, freed, now, policy, next_token),
            due_burial(state, batch, now, policy, next_token),
        ):
            changes.extend(due.changes)
            commands.extend(due.commands)
            next_token += sum(isinstance(change, c.LeaseGranted) for change in due.changes)
    for batch_id in state.parts:
        due = due_compaction(state, batch_id, now, policy)
        changes.extend(due.changes)
        commands.extend(due.commands)
    return Decision(tuple(changes), tuple(commands))


def _mend_chore(state: State, broke: e.ChoreBroke) -> Decision:
    """Forget it, so that the next tick starts it again; a closing gives its leases back."""
    released = tuple(c.LeaseReleased(chunk.chunk_id, chunk.token) for chunk in state.leases_of(broke.chore))
    return Decision((c.ChoreNoted(broke.chore, None), *released))
