"""What is worth telling of a decision: entries for the logs of batches and engines, derived from its changes.

One entry a fact, never one a row: an hour of smooth work leaves a dozen. No prompt's or answer's text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from raybatch.core import changes as c
from raybatch.core.events import EnginePhase, Now
from raybatch.core.fitness import Fitness
from raybatch.core.model import Batch, BatchStatus
from raybatch.core.state import State

MILESTONE_SHARE: Final = 0.1


def entries(state: State, changes: tuple[c.Change, ...], now: Now) -> tuple[c.Logged, ...]:
    """``state``: before the changes."""
    told = [entry for change in changes for entry in _told(state, change, now.wall)]
    return (*told, *_given_back(state, changes, now.wall))


def _told(state: State, change: c.Change, at: float) -> Iterator[c.Logged]:
    match change:
        case c.BatchCreated(batch):
            message = f"created from {batch.input_file_id} with priority {batch.priority}"
            yield c.Logged(at, "created", message, batch.batch_id)
        case c.BatchValidated(batch_id, total, model, expected_tokens, _, spans):
            models = model or ", ".join(span.model for span in spans)
            message = f"{total:,} requests for {models}, about {expected_tokens:,} tokens"
            yield c.Logged(at, "validated", message, batch_id)
        case c.BatchFailed(batch_id, errors, _):
            first = errors[0]
            where = "" if first.line is None else f" on line {first.line}"
            message = f"{len(errors):,} errors found, the first is {first.code}{where}"
            yield c.Logged(at, "failed", message, batch_id)
        case c.LeaseGranted(_, batch_id, first, _, _, engine_id) if _first_rows(state, batch_id, first):
            yield c.Logged(at, "started", f"{engine_id} took the first rows", batch_id, engine_id)
        case c.PartCommitted(batch_id, _, slices):
            finished = sum(piece.tally.completed + piece.tally.failed for piece in slices)
            yield from _milestone(state.batches[batch_id], finished, at)
        case c.BatchPaused(batch_id, _):
            yield c.Logged(at, "paused", "no further row is started", batch_id)
        case c.BatchResumed(batch_id, _):
            yield c.Logged(at, "resumed", "rows are started again", batch_id)
        case c.BatchExpiring(batch_id, _):
            batch = state.batches[batch_id]
            within = f"within {batch.completion_window}, the rest is not run"
            message = f"{batch.finished_rows:,} of {batch.total:,} rows were committed {within}"
            yield c.Logged(at, "expiring", message, batch_id)
        case c.ClockJumped(by_s):
            yield c.Logged(at, "clock", f"the wall clock moved by {by_s:+,.0f} s: deadlines move with it")
        case c.AllPaused(on):
            yield c.Logged(at, "paused" if on else "resumed", "everything, by the operator")
        case c.BatchCancelling(batch_id, _):
            yield c.Logged(at, "cancelling", "finished rows are kept", batch_id)
        case c.BatchDeleted(batch_id):
            rows = state.batches[batch_id].finished_rows
            yield c.Logged(at, "deleted", f"{batch_id} with its {rows:,} rows")
        case c.BatchReopened(batch_id, spans):
            rows = sum(span.rows.bit_count() for span in spans)
            message = f"{rows:,} failed requests run again, as round {state.batches[batch_id].round + 1}"
            yield c.Logged(at, "retried", message, batch_id)
        case c.BatchEnded(batch_id, _):
            yield c.Logged(at, "ended", "every row is committed", batch_id)
        case c.DeathBlamed(chunk_id, _, rows, suspects, alone):
            yield from _blame(state, chunk_id, rows, suspects, alone, at)
        case c.EngineLost(engine_id):
            yield c.Logged(at, "lost", "not heard of for too long", engine_id=engine_id)
        case c.EngineSeen():
            yield from _engine(state, change, at)


def _blame(
    state: State, chunk_id: int, rows: int, suspects: tuple[int, ...], alone: bool, at: float
) -> Iterator[c.Logged]:
    chunk = state.chunks[chunk_id]
    if alone:
        deaths = chunk.alone_deaths + 1
        position = chunk.first + rows.bit_length() - 1
        message = f"the row at position {position:,} was alone when its engine died, {deaths} times so far"
    elif suspects:
        count = sum(group.bit_count() for group in suspects)
        message = f"{count:,} rows were present at two deaths: they run apart, in {len(suspects):,} groups"
    else:
        return
    yield c.Logged(at, "suspected", message, chunk.batch_id, chunk.engine_id)


def _first_rows(state: State, batch_id: str, first: int) -> bool:
    """No engine had any; a closing takes what a cancel left."""
    batch = state.batches[batch_id]
    untouched = batch.cursor == 0 and batch.status is BatchStatus.IN_PROGRESS
    return untouched and batch.span_at(first).first == first


def _milestone(batch: Batch, finished: int, at: float) -> Iterator[c.Logged]:
    step = max(1.0, batch.total * MILESTONE_SHARE)
    before, after = batch.finished_rows, batch.finished_rows + finished
    if before // step < after // step and after < batch.total:
        message = f"{after:,} of {batch.total:,} rows are committed"
        yield c.Logged(at, "progress", message, batch.batch_id)


def _engine(state: State, seen: c.EngineSeen, at: float) -> Iterator[c.Logged]:
    report = seen.report
    known = state.engines.get(report.engine_id)
    reborn = known is None or known.report.incarnation != report.incarnation
    if known is not None and known.lost and not reborn:
        yield c.Logged(at, "back", "heard of again", engine_id=report.engine_id)
    if reborn or known is None or known.report.phase is not report.phase:
        what = report.models[0] if report.models else "no model"
        words = {
            EnginePhase.READY: f"{what} loaded in {report.load_s:.0f} s",
            EnginePhase.FAILED: f"{what} could not be loaded: {report.error}",
            EnginePhase.DIED: f"{what}: {report.error}",
        }
        message = words.get(report.phase, what)
        yield c.Logged(at, report.phase.value, message, engine_id=report.engine_id)
    before = Fitness.FIT if known is None else known.report.verdict.fitness
    if report.verdict.fitness is not before:
        message = "; ".join(report.verdict.reasons) or "the GPU is fit to work again"
        yield c.Logged(at, f"gpu_{report.verdict.fitness}", message, engine_id=report.engine_id)


def _given_back(state: State, changes: tuple[c.Change, ...], at: float) -> Iterator[c.Logged]:
    rows: Counter[tuple[str, str | None]] = Counter()
    for change in changes:
        if isinstance(change, c.LeaseReleased | c.DeathBlamed):
            chunk = state.chunks[change.chunk_id]
            rows[chunk.batch_id, chunk.engine_id] += chunk.missing.bit_count()
    for (batch_id, engine_id), count in rows.items():
        message = f"{count:,} rows that {engine_id} had are free again"
        yield c.Logged(at, "released", message, batch_id, engine_id)
