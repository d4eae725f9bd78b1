"""What clients ask for: a file kept or deleted, a batch created, cancelled, paused, retried.

Each answer is the entity as it will be, or a Rejection that says why not.
"""

from __future__ import annotations

from dataclasses import replace

from raybatch.core import changes as c
from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.admission import closed, refusal
from raybatch.core.chores import intake
from raybatch.core.deadline import anew, resumed
from raybatch.core.decision import Decision
from raybatch.core.model import CHUNK_ROWS_MAX, TERMINAL, Batch, BatchStatus, LineError, Tally
from raybatch.core.policy import Policy
from raybatch.core.retention import gone
from raybatch.core.rounds import reopened
from raybatch.core.spans import split
from raybatch.core.state import State


def store_file(state: State, stored: e.FileStored, policy: Policy) -> Decision:
    file = stored.file
    if file.file_id in state.files:
        return _answer(stored.reply_to, state.files[file.file_id])
    if file.expires_at is None and policy.keep_files_s is not None:
        file = replace(file, expires_at=file.created_at + policy.keep_files_s)
    return Decision((c.FileAdded(file),), (cmd.Reply(stored.reply_to, file),))


def delete_file(state: State, asked: e.FileDeletionAsked) -> Decision:
    file = state.files.get(asked.file_id)
    if file is None or file.tenant != asked.tenant or file.deleted:
        missing = cmd.Rejection("NotFound", f"No such File object: {asked.file_id}", "id")
        return _answer(asked.reply_to, missing)
    return _also(cmd.Reply(asked.reply_to, file), gone(state, (), (file,)))


# -- created -----------------------------------------------------------------------------------------------


def create_batch(state: State, asked: e.BatchAsked, now: e.Now, policy: Policy) -> Decision:
    earlier = _same_request(state, asked, now, policy)
    if earlier is not None:
        return _answer(asked.reply_to, earlier)
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
        output_expires_after_s=asked.output_expires_after_s or policy.keep_files_s,
        validation=asked.validation,
        place=state.next_place,
    )
    created: tuple[c.Change, ...] = (c.BatchCreated(batch),)
    file = state.files.get(asked.input_file_id)
    if file is None or file.tenant != asked.tenant or file.deleted or file.batch_id is not None:
        unknown = LineError("invalid_request", f"No such File object: {asked.input_file_id}", "file_id", None)
        failed = c.BatchFailed(batch.batch_id, (unknown,), now.wall)
        return Decision((*created, failed), (cmd.Reply(asked.reply_to, batch),))
    refused = refusal(state, asked, file, policy)
    if refused is not None:
        return _answer(asked.reply_to, refused)
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


# -- ended early, or once more -----------------------------------------------------------------------------


def cancel_batch(state: State, asked: e.CancelAsked, now: e.Now) -> Decision:
    batch = _batch(state, asked.tenant, asked.batch_id)
    if isinstance(batch, cmd.Rejection):
        return _answer(asked.reply_to, batch)
    if batch.status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
        return _answer(asked.reply_to, batch)
    if batch.status in TERMINAL or batch.status is BatchStatus.FINALIZING:
        return _conflict(asked.reply_to, f"Cannot cancel a batch with status '{batch.status}'.")
    cancelling = replace(batch, status=BatchStatus.CANCELLING, cancelling_at=now.wall)
    return Decision(
        (c.BatchCancelling(batch.batch_id, now.wall),),
        (cmd.Reply(asked.reply_to, cancelling), *_wake(batch)),
    )


def delete_batch(state: State, asked: e.BatchDeletionAsked, now: e.Now) -> Decision:
    """The reply is the batch as it was; still active, it is being cancelled and nothing is deleted yet."""
    batch = _batch(state, asked.tenant, asked.batch_id)
    if isinstance(batch, cmd.Rejection):
        return _answer(asked.reply_to, batch)
    if batch.active:
        return cancel_batch(state, e.CancelAsked(asked.reply_to, asked.tenant, asked.batch_id), now)
    return _also(cmd.Reply(asked.reply_to, batch), gone(state, (batch,), ()))


def retry_batch(state: State, asked: e.RetryAsked, now: e.Now, policy: Policy) -> Decision:
    batch = _batch(state, asked.tenant, asked.batch_id)
    if isinstance(batch, cmd.Rejection):
        return _answer(asked.reply_to, batch)
    if batch.output_file_id == asked.output_file_id:  # this very event was sent again
        return _answer(asked.reply_to, batch)
    if batch.status not in (BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED):
        return _conflict(
            asked.reply_to,
            f"Cannot retry a batch with status '{batch.status}': only completed, expired and cancelled ones "
            "have failed requests to run again.",
        )
    shut = closed(state, policy)
    if shut is not None:
        return _answer(asked.reply_to, shut)
    if batch.round != asked.round:
        return _conflict(asked.reply_to, "The batch was retried meanwhile: look at it, then ask again.")
    if not asked.spans:
        return _conflict(asked.reply_to, "No failed request matches: there is nothing to retry.")
    rows = sum(span.rows.bit_count() for span in asked.spans)
    ends = [0, *(span.first + span.count for span in asked.spans)]
    apart = all(end <= span.first for end, span in zip(ends, asked.spans, strict=False))
    bitmaps = all(span.rows > 0 and span.count <= CHUNK_ROWS_MAX for span in asked.spans)
    sound = apart and bitmaps and ends[-1] <= batch.total
    if not sound or asked.tally.failed != rows or not _holds(batch.tally, asked.tally):
        message = (
            f"{rows} rows to retry do not fit the batch's {batch.tally.failed} failed ones of {batch.total}."
        )
        return _answer(asked.reply_to, cmd.Rejection("BadRequest", message))
    spans, files = split(asked.spans, batch), (asked.output_file_id, asked.error_file_id)
    change = c.BatchReopened(batch.batch_id, spans, asked.tally, *files, now.wall)
    shown = anew(reopened(batch, spans, asked.tally, *files), now.wall)
    return Decision((change,), (cmd.Reply(asked.reply_to, shown), *_wake(batch)))


def _holds(whole: Tally, failed: Tally) -> bool:
    """Whether failed rows with this tally can be among those of ``whole``."""
    left = whole - failed
    bytes_left = left.failed >= 0 and 0 <= left.error_bytes <= whole.error_bytes
    tokens_left = min(left.usage.prompt_tokens, left.usage.completion_tokens, left.usage.cached_tokens) >= 0
    return (failed.completed, failed.output_bytes) == (0, 0) and bytes_left and tokens_left


def pause(state: State, asked: e.PauseAsked, now: e.Now) -> Decision:
    if asked.batch_id is None:
        change = (c.AllPaused(asked.on, now.wall),) if bool(state.all_paused) != asked.on else ()
        wake = tuple(cmd.WakeEngines(model) for model in _models(state))
        return Decision(change, (cmd.Reply(asked.reply_to, asked.on), *wake))
    batch = _batch(state, asked.tenant, asked.batch_id)
    if isinstance(batch, cmd.Rejection):
        return _answer(asked.reply_to, batch)
    if (batch.paused_at is not None) == asked.on:
        return _answer(asked.reply_to, batch)
    if asked.on and not batch.active:
        return _conflict(asked.reply_to, f"Cannot pause a batch with status '{batch.status}'.")
    if asked.on:
        paused = replace(batch, paused_at=now.wall)
        change_one: c.Change = c.BatchPaused(batch.batch_id, now.wall)
    else:
        paused = resumed(batch, now.wall, state.all_paused)
        change_one = c.BatchResumed(batch.batch_id, now.wall)
    return Decision((change_one,), (cmd.Reply(asked.reply_to, paused), *_wake(batch)))


def drain(state: State, asked: e.DrainAsked) -> Decision:
    wake = tuple(cmd.WakeEngines(model) for model in _models(state))
    return Decision((c.DrainSet(asked.on),), (cmd.Reply(asked.reply_to, asked.on), *wake))


def _batch(state: State, tenant: str, batch_id: str) -> Batch | cmd.Rejection:
    batch = state.batches.get(batch_id)
    if batch is None or batch.tenant != tenant:
        return cmd.Rejection("NotFound", f"No batch found with id '{batch_id}'.")
    return batch


def _models(state: State) -> list[str]:
    return list(dict.fromkeys(model for entry in state.engines.values() for model in entry.report.models[:1]))


def _wake(batch: Batch) -> tuple[cmd.Command, ...]:
    return tuple(cmd.WakeEngines(span.model) for span in batch.by_model)


def _also(reply: cmd.Reply, decision: Decision) -> Decision:
    return Decision(decision.changes, (reply, *decision.commands))


def _answer(reply_to: str, value: object) -> Decision:
    return Decision(commands=(cmd.Reply(reply_to, value),))


def _conflict(reply_to: str, message: str) -> Decision:
    return _answer(reply_to, cmd.Rejection("Conflict", message))
