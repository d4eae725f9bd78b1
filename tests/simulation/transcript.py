"""A history as a person reads it: what happened, and what the scheduler made of it, a line each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from raybatch.core import changes as c
from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.decision import Decision
from raybatch.core.model import PartSlice, RowSpan
from raybatch.core.rows import offsets_of
from raybatch.core.state import State

UNTOLD: Final = (c.EngineSeen, c.LeaseRenewed, c.Logged, c.ClockRead)


class Transcript:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self._began_s: float | None = None

    def happened(self, clock_s: float, what: str) -> None:
        """``clock_s``: of the world."""
        self._began_s = clock_s if self._began_s is None else self._began_s
        self.lines.append(f"{clock_s - self._began_s:8.2f} s  {what}")

    def decided(self, clock_s: float, state: State, event: e.Event, decision: Decision) -> None:
        """``state``: before the decision is applied. A tick that changes nothing is left out."""
        outcome = [*_changes(state, decision.changes), *_commands(decision.commands)]
        if outcome or not isinstance(event, e.Tick):
            self.happened(clock_s, _event(event))
            self.lines.extend(f"{'':10}   -> {line}" for line in outcome)


def _event(event: e.Event) -> str:
    match event:
        case e.Tick():
            return "time passes"
        case e.FileStored(_, file):
            return f"{file.file_id} is uploaded"
        case e.BatchAsked():
            return f"{event.batch_id} is asked for, over {event.input_file_id}"
        case e.CancelAsked() | e.BatchDeletionAsked():
            asked = "cancelled" if isinstance(event, e.CancelAsked) else "deleted"
            return f"{event.batch_id} is to be {asked}"
        case e.FileDeletionAsked():
            return f"{event.file_id} is to be deleted"
        case e.PauseAsked():
            return f"{event.batch_id or 'everything'} is to be {'paused' if event.on else 'resumed'}"
        case e.RetryAsked():
            return f"{event.batch_id} is to be retried, rows {_spans(event.spans)}"
        case e.IntakeEnded():
            found = f"{event.total} rows" if not event.errors else event.errors[0].code
            return f"intake of {event.batch_id} found {found}"
        case e.EngineReport():
            held = ", ".join(f"chunk {one.chunk_id} under {one.token}" for one in event.held) or "nothing"
            who = f"{event.engine_id} ({event.incarnation:g}th life, report {event.seq})"
            return f"{who} is {event.phase}, holds {held}, wants {event.wants_rows} rows"
        case e.PartWritten():
            return (
                f"{event.reply_to} has written {event.part.part_id}: {'; '.join(map(_slice, event.slices))}"
            )
        case e.PartsCompacted():
            return f"{' and '.join(event.replaced)} are compacted into {event.part.part_id}"
        case e.ChoreBroke(chore, _):
            return f"{chore} broke"
        case _:
            return type(event).__name__


def _changes(state: State, changes: Iterable[c.Change]) -> Iterable[str]:
    for change in changes:
        match change:
            case c.LeaseGranted(chunk_id, _, first, count, token, engine_id):
                chunk = state.chunks.get(chunk_id)
                rows = _rows(first, (1 << count) - 1 if chunk is None else chunk.missing)
                yield f"chunk {chunk_id} (rows {rows}) leased to {engine_id} under token {token}"
            case c.LeaseReleased(chunk_id, token):
                yield f"chunk {chunk_id}: lease {token} of {state.chunks[chunk_id].engine_id} ended"
            case c.PartCommitted(_, part, slices):
                masked = f", masked {_ranges(part.masked)}" if part.masked else ""
                yield f"{part.part_id} committed: {'; '.join(map(_slice, slices))}{masked}"
            case c.ChoreNoted(chore, due_mono):
                yield f"{chore} {'begun' if due_mono is not None else 'over'}"
            case c.BatchReopened(batch_id, spans):
                yield f"{batch_id} reopened for rows {_spans(spans)}"
            case c.FileAdded(file):
                yield f"{file.file_id} added, {file.size_bytes} bytes"
            case c.BatchCreated(batch):
                yield f"{batch.batch_id} created"
            case c.EngineLost(engine_id):
                yield f"{engine_id} counts as lost"
            case c.PartsReplaced(_, part, replaced):
                yield f"{part.part_id} replaces {' and '.join(replaced)}"
            case c.ClockJumped(by_s):
                yield f"the deadlines move by {by_s:+,.0f} s"
            case _ if not isinstance(change, UNTOLD):
                subject = getattr(change, "batch_id", None) or getattr(change, "file_id", None) or ""
                yield f"{type(change).__name__} {subject}".strip()


def _commands(commands: Iterable[cmd.Command]) -> Iterable[str]:
    for command in commands:
        match command:
            case cmd.Reply(_, cmd.EngineOrders() as orders) if told := _orders(orders):
                yield f"reply: {told}"
            case cmd.Reply(_, cmd.Rejection() as rejection):
                yield f"reply: refused, {rejection.message}"
            case cmd.Reply(_, tuple() as verdicts):
                yield f"reply: {', '.join(str(verdict) for verdict in verdicts)}"
            case cmd.RemoveParts(_, paths):
                yield f"remove {' and '.join(paths)}"
            case cmd.RemoveBlob(file_id):
                yield f"remove the bytes of {file_id}"


def _orders(orders: cmd.EngineOrders) -> str:
    told = [f"run chunk {lease.chunk_id} under {lease.token}" for lease in orders.leases]
    told += [f"drop chunk {chunk_id}" for chunk_id in orders.dropped]
    told += [f"serve {orders.model}"] if orders.model else []
    return ", ".join([*told, *(["superseded"] if orders.superseded else [])])


def _slice(piece: PartSlice) -> str:
    return f"chunk {piece.chunk_id} under {piece.token}, rows {_rows(piece.first, piece.rows)}"


def _spans(spans: Iterable[RowSpan]) -> str:
    return ", ".join(_rows(span.first, span.rows) for span in spans)


def _rows(first: int, bitmap: int) -> str:
    return _ranges(first + offset for offset in offsets_of(bitmap))


def _ranges(positions: Iterable[int]) -> str:
    """``3-5, 9``."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == runs[-1][1] + 1:
            runs[-1][1] = position
        else:
            runs.append([position, position])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or "none"
