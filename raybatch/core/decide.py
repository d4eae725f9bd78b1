"""One event in, one decision out: what changes, and what to say once the changes are remembered.

Pure: the state is read, never changed here; time comes in with the event. The main path of a batch, top to
bottom: asked for, taken in, leased, committed, ended.
"""

from __future__ import annotations

from dataclasses import replace

from raybatch.core import changes as c
from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.chores import (
    CLOSING,
    closing,
    compaction,
    due_closing,
    due_compaction,
    due_intake,
    intake,
)
from raybatch.core.decision import Decision
from raybatch.core.ending import ended
from raybatch.core.leasing import grant, lease_of
from raybatch.core.model import (
    TERMINAL,
    Batch,
    BatchStatus,
    ChunkState,
    LineError,
    PartFile,
    PartSlice,
)
from raybatch.core.policy import Policy
from raybatch.core.rows import offsets_of
from raybatch.core.state import State


def decide(state: State, event: e.Event, now: e.Now, policy: Policy) -> Decision:
    match event:
        case e.FileStored():
            return _store_file(state, event)
        case e.FileDeletionAsked():
            return _delete_file(state, event)
        case e.BatchAsked():
            return _create_batch(state, event, now, policy)
        case e.IntakeEnded():
            return _take_in(state, event, now)
        case e.EngineReport():
            return _answer_engine(state, event, now, policy)
        case e.PartWritten():
            return _commit_part(state, event, now)
        case e.PartsCompacted():
            return _replace_parts(state, event)
        case e.CancelAsked():
            return _cancel(state, event, now)
        case e.DrainAsked():
            wake = tuple(cmd.WakeEngines(entry.report.models[0]) for entry in state.engines.values())
            return Decision((c.DrainSet(event.on),), (cmd.Reply(event.reply_to, event.on), *wake))
        case e.ChoreBroke():
            return _mend_chore(state, event)
        case e.Tick():
            return _tick(state, now, policy)


def recover(state: State) -> Decision:
    """After a start: leases of background closings are taken back, for no such chore survived."""
    changes = tuple(
        c.LeaseReleased(chunk.chunk_id, chunk.token)
        for chunk in state.chunks.values()
        if chunk.state is ChunkState.LEASED and (chunk.engine_id or "").startswith(CLOSING)
    )
    return Decision(changes)


# -- asked for ---------------------------------------------------------------------------------------------


def _store_file(state: State, stored: e.FileStored) -> Decision:
    known = state.files.get(stored.file.file_id)
    if known is not None:
        return Decision(commands=(cmd.Reply(stored.reply_to, known),))
    return Decision((c.FileAdded(stored.file),), (cmd.Reply(stored.reply_to, stored.file),))


def _create_batch(state: State, asked: e.BatchAsked, now: e.Now, policy: Policy) -> Decision:
    earlier = _same_request(state, asked, now, policy)
    if earlier is not None:
        return Decision(commands=(cmd.Reply(asked.reply_to, earlier),))
    if state.draining:
        refusal = cmd.Rejection(
            "Unavailable", "This server is shutting down and takes no new batch.", retry_after_s=30
        )
        return Decision(commands=(cmd.Reply(asked.reply_to, refusal),))
    batch = Batch(
        batch_id=asked.batch_id,
        tenant=asked.tenant,
        input_file_id=asked.input_file_id,
        endpoint=asked.endpoint,
        completion_window=asked.completion_window,
        completion_window_s=asked.completion_window_s,
        created_at=now.wall,
        metadata=asked.metadata,
        priority=asked.priority,
        request_key=asked.request_key,
        idempotency_key=asked.idempotency_key,
        output_file_id=asked.output_file_id,
        error_file_id=asked.error_file_id,
    )
    created: tuple[c.Change, ...] = (c.BatchCreated(batch),)
    file = state.files.get(asked.input_file_id)
    if file is None or file.tenant != asked.tenant or file.deleted or file.batch_id is not None:
        unknown = _unknown_input(asked.input_file_id)
        failed = c.BatchFailed(batch.batch_id, (unknown,), now.wall)
        return Decision((*created, failed), (cmd.Reply(asked.reply_to, batch),))
    return Decision(
        (*created, c.ChoreNoted(intake(batch.batch_id), now.mono + policy.chore_s)),
        (cmd.Reply(asked.reply_to, batch), cmd.StartIntake(batch.batch_id)),
    )


def _same_request(state: State, asked: e.BatchAsked, now: e.Now, policy: Policy) -> Batch | None:
    if asked.batch_id in state.batches:  # this very event was sent again
        return state.batches[asked.batch_id]
    if asked.idempotency_key is None and not asked.is_retry:
        return None
    for batch in reversed(state.batches.values()):
        if batch.tenant != asked.tenant:
            continue
        if asked.idempotency_key is not None and batch.idempotency_key == asked.idempotency_key:
            return batch
        repeated = asked.is_retry and batch.request_key == asked.request_key
        if repeated and now.wall - batch.created_at < policy.create_repeat_s:
            return batch
    return None


def _unknown_input(file_id: str) -> LineError:
    return LineError("invalid_request", f"No such File object: {file_id}", "file_id", None)


def _delete_file(state: State, asked: e.FileDeletionAsked) -> Decision:
    file = state.files.get(asked.file_id)
    if file is None or file.tenant != asked.tenant or file.deleted:
        missing = cmd.Rejection("NotFound", f"No such File object: {asked.file_id}", "id")
        return Decision(commands=(cmd.Reply(asked.reply_to, missing),))
    reply = cmd.Reply(asked.reply_to, file)
    needed = file.batch_id is not None or any(
        batch.input_file_id == file.file_id for batch in state.batches.values()
    )
    if needed:
        return Decision((c.FileHidden(file.file_id),), (reply,))
    return Decision((c.FileRemoved(file.file_id),), (reply, cmd.RemoveBlob(file.file_id)))


# -- taken in ----------------------------------------------------------------------------------------------


def _take_in(state: State, verdict: e.IntakeEnded, now: e.Now) -> Decision:
    done = c.ChoreNoted(intake(verdict.batch_id), None)
    batch = state.batches.get(verdict.batch_id)
    if batch is None or batch.status is not BatchStatus.VALIDATING:
        return Decision((done,))
    if verdict.errors:
        return Decision((done, c.BatchFailed(batch.batch_id, verdict.errors, now.wall)))
    assert verdict.model is not None
    validated = c.BatchValidated(
        batch.batch_id, verdict.total, verdict.model, verdict.expected_tokens, now.wall
    )
    return Decision((done, validated), (cmd.WakeEngines(verdict.model),))


# -- leased ------------------------------------------------------------------------------------------------


def _answer_engine(state: State, report: e.EngineReport, now: e.Now, policy: Policy) -> Decision:
    known = state.engines.get(report.engine_id)
    if known is not None and not known.lost and report.incarnation < known.report.incarnation:
        return Decision(commands=(cmd.Reply(report.reply_to, cmd.EngineOrders(superseded=True)),))
    reborn = known is None or report.incarnation != known.report.incarnation
    if known is not None and not reborn and report.seq <= known.report.seq:
        return Decision(commands=(cmd.Reply(report.reply_to, cmd.EngineOrders()),))

    starts = known.starts if known is not None else ()
    if reborn:
        starts = (*(at for at in starts if now.mono - at < policy.restart_window_s), now.mono)
    seen = c.EngineSeen(report, now.mono, starts)

    held = {lease.chunk_id: lease.token for lease in report.held}
    mine = {chunk.chunk_id: chunk for chunk in state.leases_of(report.engine_id)}
    kept = {chunk_id for chunk_id, chunk in mine.items() if held.get(chunk_id) == chunk.token}
    cancelled = {
        chunk_id
        for chunk_id in kept
        if state.batches[mine[chunk_id].batch_id].status is BatchStatus.CANCELLING
    }
    released = tuple(
        c.LeaseReleased(chunk_id, chunk.token) for chunk_id, chunk in mine.items() if chunk_id not in kept
    )
    renewed = tuple(c.LeaseRenewed(chunk_id, now.mono + policy.lease_s) for chunk_id in sorted(kept))
    granted: tuple[c.LeaseGranted, ...] = ()
    if report.phase is e.EnginePhase.READY and not state.draining:
        granted = grant(state, report, frozenset(release.chunk_id for release in released))
    orders = cmd.EngineOrders(
        leases=tuple(lease_of(state, lease) for lease in granted),
        dropped=tuple(sorted((held.keys() - kept) | cancelled)),
        drain=state.draining,
        hold_s=_hold_s(starts, policy) if reborn else 0.0,
    )
    deadlines = tuple(c.LeaseRenewed(lease.chunk_id, now.mono + policy.lease_s) for lease in granted)
    return Decision((seen, *released, *renewed, *granted, *deadlines), (cmd.Reply(report.reply_to, orders),))


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
    part = _masked(written.part, written.slices, verdicts)
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
    if piece.rows.bit_count() != piece.tally.completed + piece.tally.failed:
        return cmd.Verdict.STALE
    return cmd.Verdict.ALREADY if piece.rows & chunk.covered else cmd.Verdict.ACCEPTED


def _overlap(left: PartSlice, right: PartSlice) -> bool:
    return left.chunk_id == right.chunk_id and left.rows & right.rows != 0


def _masked(part: PartFile, slices: tuple[PartSlice, ...], verdicts: tuple[cmd.Verdict, ...]) -> PartFile:
    refused = [
        piece.first + offset
        for piece, verdict in zip(slices, verdicts, strict=True)
        if verdict is not cmd.Verdict.ACCEPTED
        for offset in offsets_of(piece.rows)
    ]
    return replace(part, masked=tuple(sorted(refused)))


def _replace_parts(state: State, compacted: e.PartsCompacted) -> Decision:
    done = c.ChoreNoted(compaction(compacted.batch_id), None)
    parts = state.parts.get(compacted.batch_id, {})
    if compacted.part.part_id in parts:
        return Decision((done,))
    if any(part_id not in parts for part_id in compacted.replaced):
        return Decision((done,), (cmd.RemoveParts(compacted.batch_id, (compacted.part.path,)),))
    replaced_paths = tuple(parts[part_id].path for part_id in compacted.replaced)
    return Decision(
        (done, c.PartsReplaced(compacted.batch_id, compacted.part, compacted.replaced)),
        (cmd.RemoveParts(compacted.batch_id, replaced_paths),),
    )


# -- ended early -------------------------------------------------------------------------------------------


def _cancel(state: State, asked: e.CancelAsked, now: e.Now) -> Decision:
    batch = state.batches.get(asked.batch_id)
    if batch is None or batch.tenant != asked.tenant:
        missing = cmd.Rejection("NotFound", f"No batch found with id '{asked.batch_id}'.")
        return Decision(commands=(cmd.Reply(asked.reply_to, missing),))
    if batch.status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
        return Decision(commands=(cmd.Reply(asked.reply_to, batch),))
    if batch.status in TERMINAL or batch.status is BatchStatus.FINALIZING:
        refusal = cmd.Rejection("Conflict", f"Cannot cancel a batch with status '{batch.status}'.")
        return Decision(commands=(cmd.Reply(asked.reply_to, refusal),))
    cancelling = replace(batch, status=BatchStatus.CANCELLING, cancelling_at=now.wall)
    wake = (cmd.WakeEngines(batch.model),) if batch.model else ()
    return Decision(
        (c.BatchCancelling(batch.batch_id, now.wall),), (cmd.Reply(asked.reply_to, cancelling), *wake)
    )


# -- time --------------------------------------------------------------------------------------------------


def _tick(state: State, now: e.Now, policy: Policy) -> Decision:
    changes: list[c.Change] = []
    commands: list[cmd.Command] = []
    for engine_id, entry in state.engines.items():
        if not entry.lost and now.mono - entry.seen_at_mono > policy.engine_silent_s:
            changes.append(c.EngineLost(engine_id))
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
            due_closing(state, batch, freed, now, policy, next_token),
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
