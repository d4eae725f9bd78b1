"""Wrong versions of production functions, one bug each; ``mutants`` says what each is and puts it in.

A bug calls the real function where it can, so that it stays a bug when the function changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from raybatch.actors import sweep
from raybatch.actors.scheduler import Scheduler
from raybatch.core import asked, ending, leasing, placement, rounds
from raybatch.core import chores as chores_of
from raybatch.core import commands as cmd
from raybatch.core import decide as deciding
from raybatch.core.changes import BatchEnded, ClockRead, LeaseGranted, LeaseReleased, LeaseRenewed
from raybatch.core.decision import Decision
from raybatch.core.model import ChunkState
from raybatch.core.rows import full
from raybatch.core.state import Image, State
from raybatch.ledger import journal
from raybatch.storage import atomic
from tests.simulation.models import MODELS, SLOT_MODELS

# -- leases --------------------------------------------------------------------------------------------------


def no_token_check(state: Any, written: Any, piece: Any) -> cmd.Verdict:
    return cmd.Verdict.ACCEPTED if piece.chunk_id in state.chunks else cmd.Verdict.STALE


def grant_under_the_old_token(
    state: Any, report: Any, freed: Any, real: Any = leasing.grant
) -> tuple[tuple[LeaseGranted, ...], int | None]:
    given, token = [], state.next_token
    granted, left_rows = real(state, report, freed)
    for lease in granted:
        chunk = state.chunks.get(lease.chunk_id)
        given.append(replace(lease, token=token if chunk is None else chunk.token))
        token += chunk is None
    return tuple(given), left_rows


def take_any_token(self: Any, grant: Any, real: Any = State._grant) -> Any:
    """What the state refuses of the bug above, taken."""
    next_token, self.next_token = self.next_token, grant.token
    images = real(self, grant)
    self.next_token = max(next_token, self.next_token)
    return images


def load_without_counters(self: Any, images: tuple[Image, ...], real: Any = State.load) -> None:
    real(self, images)
    self.next_token = 1


def lease_whole_chunks(state: Any, granted: Any, real: Any = leasing.lease_of) -> cmd.Lease:
    lease: cmd.Lease = real(state, granted)
    return replace(lease, rows=full(lease.count))


def tick_on_the_wall_clock(state: Any, now: Any, policy: Any, real: Any = deciding._tick) -> Decision:
    """Deadlines are kept as instants of the wall clock."""
    ahead_s = now.wall - now.mono
    deadlines = {chunk_id: at - ahead_s for chunk_id, at in state.lease_deadlines.items()}
    decision: Decision = real(replace(state, lease_deadlines=deadlines), now, policy)
    return _later(decision, ahead_s)


def answer_on_the_wall_clock(
    state: Any, report: Any, now: Any, policy: Any, real: Any = deciding._answer_engine
) -> Decision:
    return _later(real(state, report, now, policy), now.wall - now.mono)


def _later(decision: Decision, by_s: float) -> Decision:
    return replace(
        decision,
        changes=tuple(
            replace(change, deadline_mono=change.deadline_mono + by_s)
            if isinstance(change, LeaseRenewed)
            else change
            for change in decision.changes
        ),
    )


def tick_that_ends_no_lease(state: Any, now: Any, policy: Any, real: Any = deciding._tick) -> Decision:
    decision: Decision = real(state, now, policy)
    kept = tuple(change for change in decision.changes if not isinstance(change, LeaseReleased))
    return Decision(kept, decision.commands)


def believe_predecessors(
    state: Any, report: Any, now: Any, policy: Any, real: Any = deciding._answer_engine
) -> Decision:
    """An engine's process that was followed by another goes on being served."""
    known = state.engines.get(report.engine_id)
    incarnation = report.incarnation if known is None else known.report.incarnation
    seq = report.seq if known is None else known.report.seq + 1
    decision: Decision = real(state, replace(report, incarnation=incarnation, seq=seq), now, policy)
    return decision


def grant_any_model(state: Any, report: Any, freed: Any, real: Any = leasing.grant) -> Any:
    return real(state, replace(report, models=MODELS), freed)


def cut_without_the_cursor(batch: Any, first: int, count: int) -> Any:
    return batch


# -- parts and rounds ----------------------------------------------------------------------------------------


def unmasked(part: Any, slices: Any, verdicts: Any, round_: int) -> Any:
    return replace(part, round=round_)


def masked_beside(
    part: Any, slices: Any, verdicts: Any, round_: int, real: Any = deciding._manifest_row
) -> Any:
    masked = real(part, slices, verdicts, round_)
    return replace(masked, masked=tuple(position + 1 for position in masked.masked))


def without_round(
    part: Any, slices: Any, verdicts: Any, round_: int, real: Any = deciding._manifest_row
) -> Any:
    return real(part, slices, verdicts, 1)


def compact_across_rounds(parts: Any, fan_in: int) -> Any:
    return tuple(parts[:fan_in]) if len(parts) >= fan_in else ()


def replace_twice(state: Any, compacted: Any, real: Any = deciding._replace_parts) -> Decision:
    if compacted.part.part_id in state.parts.get(compacted.batch_id, {}):
        return Decision((), (cmd.RemoveParts(compacted.batch_id, (compacted.part.path,)),))
    decision: Decision = real(state, compacted)
    return decision


def reopen_with_the_old_tally(batch: Any, *rest: Any, real: Any = rounds.reopened) -> Any:
    return replace(real(batch, *rest), tally=batch.tally)


def split_nothing(spans: Any, batch: Any) -> Any:
    return spans


# -- from beginning to end -----------------------------------------------------------------------------------


def forget_requests(*_: Any) -> None:
    return None


def end_early(state: Any, written: Any, now: Any, real: Any = deciding._commit_part) -> Decision:
    """As soon as no chunk is left, however many rows were never cut."""
    decision: Decision = real(state, written, now)
    batch = state.batches.get(written.batch_id)
    live = state.live_chunks(written.batch_id)
    ends = any(isinstance(change, BatchEnded) for change in decision.changes)
    verdicts = decision.commands[-1].value if decision.commands else ()
    rows = sum(piece.rows.bit_count() for piece in written.slices)
    missing = sum(chunk.missing.bit_count() for chunk in live)
    if batch is None or ends or set(verdicts) != {cmd.Verdict.ACCEPTED} or rows < missing:
        return decision
    tally = sum((piece.tally for piece in written.slices), batch.tally)
    return replace(decision, changes=(*decision.changes, *ending.ended(batch, tally, now)))


def at_end_whatever_is_missing(batch: Any, at: float, real: Any = ending.at_end) -> Any:
    """What the state refuses of the bug above, taken."""
    whole = replace(batch.tally, completed=batch.total - batch.tally.failed)
    return replace(real(replace(batch, tally=whole), at), tally=batch.tally)


def end_without_files(batch: Any, tally: Any, now: Any, real: Any = ending.ended) -> Any:
    return real(batch, tally, now)[-1:]


def close_under_engines(
    state: Any, batch: Any, freed: Any, *rest: Any, real: Any = chores_of.due_closing
) -> Decision:
    leased = (one for one in state.live_chunks(batch.batch_id) if one.state is ChunkState.LEASED)
    decision: Decision = real(state, batch, freed | {chunk.chunk_id for chunk in leased}, *rest)
    return decision


def under_way_for_ever(state: Any, chore: str, now: Any) -> bool:
    return chore in state.chores


def jump_unnoticed(state: Any, now: Any, real: Any = deciding.jumped) -> tuple[Any, ...]:
    return tuple(change for change in real(state, now) if isinstance(change, ClockRead))


def gone_with_the_upload(state: Any, batches: Any, files: Any, real: Any = asked.gone) -> Decision:
    decision: Decision = real(state, batches, files)
    inputs = tuple(cmd.RemoveBlob(batch.input_file_id) for batch in batches)
    return Decision(decision.changes, (*decision.commands, *inputs))


# -- models in turns -----------------------------------------------------------------------------------------


def never_over(*_: Any) -> bool:
    return False


def always_over(*_: Any) -> bool:
    return True


def work_everywhere(*_: Any) -> Any:
    """A model whose rows are done is loaded once more."""
    return [placement._Backlog(model, 0, 0) for model in SLOT_MODELS]


# -- remembering ---------------------------------------------------------------------------------------------


def speak_first(self: Any, letter: Any, turn: Any, real: Any = Scheduler._decide) -> None:
    real(self, letter, turn)
    self._speak(turn)


def write_without_fsync(self: Any, segment: Any, line: Any, real: Any = journal.Journal._write) -> None:
    with patch.object(os, "fdatasync", lambda descriptor: None):
        real(self, segment, line)


def ledger_before_journal(self: Any, changes: Any, images: Any, at: float) -> None:
    seq = self._journal.last_seq + 1
    self._ledger.commit(seq, images)
    self._journal.append(seq, changes, at)


def record_unchecked(raw: bytes) -> bytes | None:
    return raw.rstrip(b"\n").partition(b" ")[2].partition(b" ")[2] or None


class Untruncated(FileIO):
    """What a torn record left stays, and the next record comes behind it."""

    def truncate(self, size: int | None = None, /) -> int:
        return 0

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return super().seek(0, os.SEEK_END)


def not_written_again(self: Any, segment: Any) -> None:
    return None


# -- files ---------------------------------------------------------------------------------------------------


def publish_unsynced(temporary: Path, final: Path) -> None:
    os.replace(temporary, final)
    atomic.fsync_dir(final.parent)


def name_unsynced(path: Path) -> None:
    return None


def no_orphans(*_: Any) -> Iterator[Path]:
    return iter(())


def keep_what_is_shown(known: Any, real: Any = sweep.kept) -> Any:
    shown = frozenset(file.file_id for file in known.files.values() if not file.deleted)
    return replace(real(known), file_ids=shown)
