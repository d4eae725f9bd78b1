"""Whether a new batch is taken in: closed doors (503) first, then limits (400 and 429), and once its rows are
known the tokens they may take.

Every refusal names the limit, the value found and the setting that changes it.
"""

from __future__ import annotations

from typing import Final

from raybatch.core.commands import Rejection
from raybatch.core.events import BatchAsked, EnginePhase, IntakeEnded
from raybatch.core.fitness import Fitness
from raybatch.core.model import Batch, BatchStatus, File, LineError
from raybatch.core.policy import Policy
from raybatch.core.state import EngineEntry, State

RETRY_AFTER_MIN_S: Final = 5
RETRY_AFTER_MAX_S: Final = 3_600
RETRY_AFTER_UNKNOWN_S: Final = 60  #: while no rate is known
CLOSED_RETRY_AFTER_S: Final = 60


def closed(state: State, policy: Policy) -> Rejection | None:
    """Why nothing new is taken in at all, or None."""
    if state.draining:
        return Rejection(
            "Unavailable",
            "This server is shutting down and takes no new batch.",
            code="draining",
            retry_after_s=CLOSED_RETRY_AFTER_S // 2,
        )
    seen = state.surroundings
    if seen is not None and seen.disk_free_bytes < policy.disk_free_bytes_min:
        message = (
            f"The disk of this server has {seen.disk_free_bytes:,} bytes left, and new work is taken in from "
            f"{policy.disk_free_bytes_min:,} on (setting scheduler.disk_free_bytes_min). Free some space."
        )
        return Rejection("Unavailable", message, code="disk_low", retry_after_s=CLOSED_RETRY_AFTER_S)
    unfit = [entry for entry in state.engines.values() if _unfit(entry)]
    if unfit and not any(_may_work(entry) for entry in state.engines.values()):
        reasons = "; ".join(
            dict.fromkeys(reason for entry in unfit for reason in entry.report.verdict.reasons)
        )
        message = f"No GPU of this server is fit to work: {reasons}."
        return Rejection("Unavailable", message, code="gpu_unfit", retry_after_s=CLOSED_RETRY_AFTER_S)
    return None


def refusal(state: State, asked: BatchAsked, file: File, policy: Policy) -> Rejection | None:
    """Why this batch is not taken in, or None."""
    shut = closed(state, policy)
    if shut is not None:
        return shut
    if 0 < policy.batch_bytes_max < file.size_bytes:
        message = (
            f"The input file has {file.size_bytes:,} bytes; that of a batch may have "
            f"{policy.batch_bytes_max:,} (setting scheduler.batch_bytes_max). Split it into several batches."
        )
        return Rejection("BadRequest", message, "input_file_id", "file_too_large")
    lines = file.lines or 0
    if lines > policy.queued_requests_max:
        message = (
            f"The input file holds {lines:,} requests; {policy.queued_requests_max:,} may wait in all "
            "(setting scheduler.queued_requests_max). Split the file into several batches."
        )
        return Rejection("BadRequest", message, "input_file_id", "too_many_tasks")
    if lines > policy.requests_max:
        message = (
            f"The input file holds {lines:,} requests; a batch may hold {policy.requests_max:,} "
            "(setting scheduler.requests_max). Split the file into several batches."
        )
        return Rejection("BadRequest", message, "input_file_id", "too_many_tasks")
    active = [state.batches[batch_id] for batch_id in state.active]
    mine = [batch for batch in active if batch.tenant == asked.tenant]
    if len(mine) >= policy.active_batches_max:
        message = (
            f"{len(mine):,} batches are active, and {policy.active_batches_max:,} may be "
            "(setting scheduler.active_batches_max). Wait until one has ended."
        )
        return Rejection(
            "Busy",
            message,
            code="too_many_batches",
            retry_after_s=_wait_s(state, min((_rows_left(state, batch) for batch in mine), default=0)),
        )
    queued = sum(_rows_left(state, batch) for batch in mine)
    if queued + lines > policy.queued_requests_max:
        message = (
            f"{queued:,} requests are waiting and this batch has {lines:,}; "
            f"{policy.queued_requests_max:,} may wait (setting scheduler.queued_requests_max). "
            "Hand it in once some have finished."
        )
        excess = queued + lines - policy.queued_requests_max
        return Rejection("Busy", message, code="queue_full", retry_after_s=_wait_s(state, excess))
    return None


def too_many_tokens(state: State, batch: Batch, verdict: IntakeEnded, policy: Policy) -> LineError | None:
    """Why a batch without a fault fails all the same, or None. Counts what its tenant's batches have left."""
    most = policy.enqueued_tokens_max
    if not most:
        return None
    shares = {span.model: span.expected_tokens for span in verdict.spans}
    if verdict.model is not None:
        shares[verdict.model] = verdict.expected_tokens
    for model, found in shares.items():
        queued = sum(
            span.expected_tokens_left
            for other in (state.batches[batch_id] for batch_id in state.active)
            if other.tenant == batch.tenant
            for span in other.by_model
            if span.model == model
        )
        if queued + found > most:
            message = (
                f"Enqueued token limit reached for {model}. Limit: {most:,} enqueued tokens. "
                "Please try again once some in_progress batches have been completed. "
                f"(This batch has about {found:,} tokens, and about {queued:,.0f} wait; "
                "the limit is the setting scheduler.enqueued_tokens_max.)"
            )
            return LineError("token_limit_exceeded", message, None, None)
    return None


def _rows_left(state: State, batch: Batch) -> int:
    if batch.status is not BatchStatus.VALIDATING:
        return batch.total - batch.finished_rows
    file = state.files.get(batch.input_file_id)
    return (file.lines or 0) if file is not None else 0


def _unfit(entry: EngineEntry) -> bool:
    return not entry.lost and entry.report.verdict.fitness is Fitness.UNFIT


def _may_work(entry: EngineEntry) -> bool:
    return (
        not entry.lost
        and entry.report.phase is not EnginePhase.FAILED
        and entry.report.verdict.fitness is not Fitness.UNFIT
    )


def _wait_s(state: State, rows: int) -> int:
    """Until so many rows have gone, at the engines' present pace."""
    rows_per_s = sum(entry.report.rows_per_s for entry in state.engines.values() if not entry.lost)
    if not rows_per_s > 0:  # nor is it a number where an engine miscounts
        return RETRY_AFTER_UNKNOWN_S
    return round(min(max(rows / rows_per_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S))
