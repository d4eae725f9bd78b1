"""What a batch needs in the background: intake of its upload, closing after a cancel or past its deadline,
burial of rows that kill engines, compaction of parts.

A chore is named; its name is also the engine id of the leases a closing holds. A chore that ended without a
verdict, or was not heard of for too long, is simply started again: every one of them is idempotent or fenced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raybatch.core.changes import BatchExpiring, Change, ChoreNoted, LeaseRenewed
from raybatch.core.commands import Command, StartClosing, StartCompaction, StartIntake, WakeEngines
from raybatch.core.deadline import past
from raybatch.core.decision import Decision
from raybatch.core.ending import ended
from raybatch.core.events import Now
from raybatch.core.leasing import grant_chunk, grant_rest, lease_of
from raybatch.core.model import Batch, BatchStatus, ChunkState, PartFile
from raybatch.core.policy import Policy
from raybatch.core.quarantine import beyond_help
from raybatch.core.state import State

CLOSING: Final = "closing:"
BURIAL: Final = "burial:"
#: what the error rows say of requests that will not run, by the status of a batch that is about to end
CLOSING_REASONS: Final = {
    BatchStatus.CANCELLING: "batch_cancelled",
    BatchStatus.FINALIZING: "batch_expired",
}
COMPACTED_FILES_MAX: Final = 64  #: of one batch once nothing is left to compact, and in one compaction


def intake(batch_id: str) -> str:
    return f"intake:{batch_id}"


def closing(batch_id: str) -> str:
    return f"{CLOSING}{batch_id}"


def burial(batch_id: str, chunk_id: int) -> str:
    return f"{BURIAL}{batch_id}:{chunk_id}"


def compaction(batch_id: str) -> str:
    return f"compaction:{batch_id}"


def due_intake(state: State, batch: Batch, now: Now, policy: Policy) -> Decision:
    chore = intake(batch.batch_id)
    if batch.status is not BatchStatus.VALIDATING or _under_way(state, chore, now):
        return Decision()
    return Decision((ChoreNoted(chore, now.mono + policy.chore_s),), (StartIntake(batch.batch_id),))


def due_expiry(state: State, batch: Batch, now: Now, policy: Policy) -> Decision:
    """From here on its rows are only closed; its engines are told at once."""
    if not policy.expire_unfinished or not past(state, batch, now):
        return Decision()
    wake = tuple(WakeEngines(span.model) for span in batch.by_model)
    return Decision((BatchExpiring(batch.batch_id, now.wall),), wake)


def due_closing(
    state: State, batch: Batch, freed: frozenset[int], now: Now, policy: Policy, next_token: int
) -> Decision:
    """A batch on its way out ends once engines hold none of its rows: the rest become error rows."""
    reason = CLOSING_REASONS.get(batch.status)
    if reason is None:
        return Decision()
    if batch.finished_rows == batch.total:
        return Decision(ended(batch, batch.tally, now))
    chore = closing(batch.batch_id)
    still_leased = any(
        chunk.state is ChunkState.LEASED and chunk.chunk_id not in freed
        for chunk in state.live_chunks(batch.batch_id)
    )
    if still_leased or _under_way(state, chore, now) or next_token != state.next_token:
        return Decision()
    granted = grant_rest(state, batch, chore, freed)
    due_mono = now.mono + policy.chore_s
    changes: tuple[Change, ...] = (
        ChoreNoted(chore, due_mono),
        *granted,
        *(LeaseRenewed(lease.chunk_id, due_mono) for lease in granted),
    )
    leases = tuple(lease_of(state, lease) for lease in granted)
    return Decision(changes, (StartClosing(batch.batch_id, reason, leases, chore),))


def due_burial(state: State, batch: Batch, now: Now, policy: Policy, next_token: int) -> Decision:
    """A row that killed its engine alone, again and again, gets an error row instead."""
    lost = beyond_help(state, batch.batch_id, policy)
    if batch.status is not BatchStatus.IN_PROGRESS or not lost or next_token != state.next_token:
        return Decision()
    chunk = lost[0]
    chore = burial(batch.batch_id, chunk.chunk_id)
    granted = grant_chunk(state, chunk, chore)
    due_mono = now.mono + policy.chore_s
    changes = (granted, LeaseRenewed(chunk.chunk_id, due_mono))
    return Decision(
        changes, (StartClosing(batch.batch_id, "engine_crash", (lease_of(state, granted),), chore),)
    )


def due_compaction(state: State, batch_id: str, now: Now, policy: Policy) -> Decision:
    parts = state.parts.get(batch_id, {})
    chore = compaction(batch_id)
    if len(parts) < policy.compaction_fan_in or _under_way(state, chore, now):
        return Decision()
    group = next_compaction(tuple(parts.values()), policy.compaction_fan_in)
    if not group:
        return Decision()
    commands: tuple[Command, ...] = (StartCompaction(batch_id, group),)
    return Decision((ChoreNoted(chore, now.mono + policy.chore_s),), commands)


def next_compaction(parts: Sequence[PartFile], fan_in: int) -> tuple[PartFile, ...]:
    """The next files to merge into one, or none: those of the lowest level that has ``fan_in`` of them.

    A row is thus rewritten once a level. When even so too many files remain, the smallest ones go together.
    Files of different rounds never do: each round's own files stay readable.
    """
    for round_ in sorted({part.round for part in parts}):
        of_round = [part for part in parts if part.round == round_]
        for level in sorted({part.level for part in of_round}):
            group = [part for part in of_round if part.level == level]
            if len(group) >= fan_in:
                return tuple(group[:COMPACTED_FILES_MAX])
        if len(of_round) > COMPACTED_FILES_MAX:
            return tuple(sorted(of_round, key=lambda part: part.size_bytes)[:fan_in])
    return ()


def _under_way(state: State, chore: str, now: Now) -> bool:
    due_mono = state.chores.get(chore)
    return due_mono is not None and now.mono < due_mono
