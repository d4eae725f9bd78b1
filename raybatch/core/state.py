"""What the scheduler knows, and the one place that changes it.

Durable knowledge is a cache of the ledger: applying changes here and loading what the ledger committed give
the same state. Volatile knowledge (who is alive, deadlines, chores under way) is lost with the process on
purpose.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from raybatch.core import changes as c
from raybatch.core.chunking import redriven, suspects
from raybatch.core.deadline import all_resumed, anew, moved, resumed
from raybatch.core.ending import at_end
from raybatch.core.events import EnginePhase, EngineReport, SurroundingsSeen
from raybatch.core.holdings import Holdings
from raybatch.core.image import Image, images_of, redrive_image, redrive_key
from raybatch.core.lifecycle import BatchMove, ChunkMove, next_state, next_status
from raybatch.core.model import (
    Batch,
    Chunk,
    ChunkState,
    File,
    LogEntry,
    ModelRate,
    PartFile,
    Redrive,
    RowSpan,
)
from raybatch.core.rounds import reopened
from raybatch.core.rows import full
from raybatch.core.seen import EngineEntry, ModelFault
from raybatch.core.spans import cut, finished
from raybatch.errors import IllegalMove

__all__ = ["EngineEntry", "Image", "ModelFault", "State"]

LOG_ENTRIES_MAX: Final = 200  #: kept of each batch, and of each engine's own; the oldest go first


@dataclass(slots=True)
class State:
    #: durable
    files: dict[str, File] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    chunks: dict[int, Chunk] = field(default_factory=dict)  #: the ones not completed
    parts: dict[str, dict[str, PartFile]] = field(default_factory=dict)  #: by batch, then part id
    redrives: dict[str, dict[int, Redrive]] = field(default_factory=dict)  #: by batch, then round
    log: dict[int, LogEntry] = field(default_factory=dict)
    rates: dict[str, ModelRate] = field(default_factory=dict)  #: by model
    next_token: int = 1
    next_chunk_id: int = 1
    next_entry_id: int = 1
    all_paused: int = 0  #: since when no row of any batch is to be leased, whole seconds; 0 while they are

    #: derived from the above
    active: dict[str, None] = field(default_factory=dict)  #: batch ids that are not terminal, oldest first
    batch_chunks: dict[str, dict[int, None]] = field(default_factory=dict)  #: live chunk ids by batch
    holdings: Holdings = field(default_factory=Holdings)
    subject_log: dict[str, deque[int]] = field(default_factory=dict)  #: entry ids by batch or engine

    #: volatile
    engines: dict[str, EngineEntry] = field(default_factory=dict)
    lease_deadlines: dict[int, float] = field(default_factory=dict)
    chores: dict[str, float] = field(default_factory=dict)
    draining: bool = False
    lanes: dict[str, c.LaneTurn] = field(default_factory=dict)  #: by engine: whose turn it is
    clock_offset_s: float | None = None  #: of the wall clock, less the monotonic one
    surroundings: SurroundingsSeen | None = None
    model_faults: dict[str, ModelFault] = field(default_factory=dict)
    model_served_mono: dict[str, float] = field(default_factory=dict)  #: when an engine last had it ready

    # -- reading -------------------------------------------------------------------------------------------

    def live_chunks(self, batch_id: str) -> list[Chunk]:
        return [self.chunks[chunk_id] for chunk_id in self.batch_chunks.get(batch_id, {})]

    def leased_rows(self, batch_id: str) -> int:
        return self.holdings.leased_rows.get(batch_id, 0)

    @property
    def next_place(self) -> int:
        """Of a new batch: behind all others."""
        last = next(reversed(self.batches.values()), None)
        return 1 if last is None else last.place + 1

    def leases_of(self, engine_id: str) -> list[Chunk]:
        return [self.chunks[chunk_id] for chunk_id in sorted(self.holdings.by_holder.get(engine_id, ()))]

    def available_chunks(self, batch_id: str) -> list[Chunk]:
        return [self.chunks[chunk_id] for chunk_id in sorted(self.holdings.available.get(batch_id, ()))]

    # -- changing ------------------------------------------------------------------------------------------

    def apply(self, change: c.Change) -> tuple[Image, ...]:
        """Make the change; return the durable entities it touched as they look now. Raises IllegalMove."""
        match change:
            case c.FileAdded(file):
                return (self._put_file(file),)
            case c.FileHidden(file_id):
                return (self._put_file(replace(self.files[file_id], deleted=True)),)
            case c.FileRemoved(file_id):
                del self.files[file_id]
                return (Image("files", file_id, None),)
            case c.BatchCreated(batch):
                return (self._put_batch(self._placed(batch)),)
            case c.BatchValidated():
                return (self._validate(change),)
            case c.BatchFailed(batch_id, errors, at):
                batch = resumed(self.batches[batch_id], at)
                status = next_status(batch_id, batch.status, BatchMove.FAIL)
                return (self._put_batch(replace(batch, status=status, errors=errors, failed_at=at)),)
            case c.BatchCancelling(batch_id, at):
                batch = self.batches[batch_id]
                status = next_status(batch_id, batch.status, BatchMove.CANCEL)
                return (self._put_batch(replace(batch, status=status, cancelling_at=at)),)
            case c.BatchExpiring(batch_id, at):
                batch = self.batches[batch_id]
                status = next_status(batch_id, batch.status, BatchMove.FINALIZE)
                return (self._put_batch(replace(batch, status=status, finalizing_at=at)),)
            case c.BatchEnded(batch_id, at):
                return (self._put_batch(at_end(resumed(self.batches[batch_id], at), at)),)
            case c.LeaseGranted():
                return self._grant(change)
            case c.LeaseReleased(chunk_id, token):
                return (self._release(chunk_id, token),)
            case c.DeathBlamed():
                return self._blame(change)
            case c.PartCommitted():
                return self._commit_part(change)
            case c.PartsReplaced():
                return self._replace_parts(change)
            case c.BatchReopened():
                return self._reopen(change)
            case c.BatchDeleted(batch_id):
                return self._delete(batch_id)
            case c.BatchPaused(batch_id, at):
                return (self._put_batch(replace(self.batches[batch_id], paused_at=at)),)
            case c.BatchResumed(batch_id, at):
                return (self._put_batch(resumed(self.batches[batch_id], at, self.all_paused)),)
            case c.AllPaused(on, at):
                since, self.all_paused = self.all_paused, max(1, int(at)) if on else 0
                held_up = [] if on else [all_resumed(self.batches[id_], since, at) for id_ in self.active]
                return (*map(self._put_batch, held_up), Image("counters", "all_paused", self.all_paused))
            case c.ClockJumped(by_s):
                self.all_paused = max(1, int(self.all_paused + by_s)) if self.all_paused else 0
                running = [moved(self.batches[batch_id], by_s) for batch_id in self.active]
                return (*map(self._put_batch, running), Image("counters", "all_paused", self.all_paused))
            case c.Logged():
                return self._log(change)
            case c.RateNoted(rate):
                self.rates[rate.model] = rate
                return (Image("rates", rate.model, rate),)
            case _:
                self._apply_volatile(change)
                return ()

    def load(self, images: tuple[Image, ...]) -> None:
        """Put what a ledger or a snapshot remembered. Completed chunks are not kept in memory."""
        for image in images:
            entity = image.entity
            if isinstance(entity, File):
                self._put_file(entity)
            elif isinstance(entity, Batch):
                self._put_batch(self._placed(entity))
            elif isinstance(entity, Chunk):
                if entity.state is not ChunkState.COMPLETED:
                    self._put_chunk(entity)
            elif isinstance(entity, PartFile):
                assert image.batch_id is not None
                self.parts.setdefault(image.batch_id, {})[entity.part_id] = entity
            elif isinstance(entity, Redrive):
                self.redrives.setdefault(entity.batch_id, {})[entity.round] = entity
            elif isinstance(entity, LogEntry):
                self._put_entry(entity)
            elif isinstance(entity, ModelRate):
                self.rates[entity.model] = entity
            elif isinstance(entity, int):
                setattr(self, str(image.key), entity)

    def images(self) -> tuple[Image, ...]:
        """Everything durable, for a snapshot."""
        return images_of(self)

    # -- durable changes -----------------------------------------------------------------------------------

    def _validate(self, change: c.BatchValidated) -> Image:
        batch = self.batches[change.batch_id]
        status = next_status(batch.batch_id, batch.status, BatchMove.VALIDATE)
        return self._put_batch(
            replace(
                batch,
                status=status,
                total=change.total,
                model=change.model,
                spans=change.spans,
                expected_tokens=change.expected_tokens,
                in_progress_at=change.at,
            )
        )

    def _grant(self, grant: c.LeaseGranted) -> tuple[Image, ...]:
        if grant.token != self.next_token:
            raise IllegalMove(f"token {grant.token} granted out of turn: the next one is {self.next_token}")
        self.next_token += 1
        images: list[Image] = []
        chunk = self.chunks.get(grant.chunk_id)
        if chunk is None:
            images.append(self._cut(grant))
            chunk = Chunk(
                grant.chunk_id,
                grant.batch_id,
                grant.first,
                grant.count,
                ChunkState.LEASED,
                grant.token,
                grant.engine_id,
            )
        else:
            chunk = replace(
                chunk,
                state=next_state(chunk.chunk_id, chunk.state, ChunkMove.GRANT),
                token=grant.token,
                engine_id=grant.engine_id,
                attempt=chunk.attempt + 1,
            )
        return (*images, self._put_chunk(chunk), *self._counters())

    def _cut(self, grant: c.LeaseGranted) -> Image:
        if grant.chunk_id != self.next_chunk_id:
            raise IllegalMove(f"chunk {grant.chunk_id} cut out of turn: the next one is {self.next_chunk_id}")
        batch = cut(self.batches[grant.batch_id], grant.first, grant.count)
        self.next_chunk_id += 1
        return self._put_batch(batch)

    def _release(self, chunk_id: int, token: int) -> Image:
        chunk = self._leased(chunk_id, token)
        self.lease_deadlines.pop(chunk_id, None)
        state = next_state(chunk_id, chunk.state, ChunkMove.RELEASE)
        return self._put_chunk(replace(chunk, state=state, engine_id=None))

    def _blame(self, death: c.DeathBlamed) -> tuple[Image, ...]:
        chunk = self._leased(death.chunk_id, death.token)
        self.lease_deadlines.pop(chunk.chunk_id, None)
        moved = 0
        images: list[Image] = []
        for rows in death.suspects:
            if rows & (moved | ~chunk.missing):
                raise IllegalMove(f"chunk {chunk.chunk_id} cannot give away rows it does not have")
            moved |= rows
            images.append(self._put_chunk(suspects(self._draw_chunk_id(), chunk, rows)))
        covered = chunk.covered | moved
        move = ChunkMove.COVER if covered == full(chunk.count) else ChunkMove.RELEASE
        left = replace(
            chunk,
            state=next_state(chunk.chunk_id, chunk.state, move),
            engine_id=None,
            covered=covered,
            exposed=chunk.exposed | death.rows,
            alone_deaths=chunk.alone_deaths + death.alone,
        )
        return (*images, self._put_chunk(left), *self._counters())

    def _commit_part(self, commit: c.PartCommitted) -> tuple[Image, ...]:
        batch = self.batches[commit.batch_id]
        parts = self.parts.setdefault(batch.batch_id, {})
        if commit.part.part_id in parts:
            raise IllegalMove(f"part {commit.part.part_id} is committed already")
        images: list[Image] = []
        tally = batch.tally
        spans = finished(batch.spans, ((piece.first, piece.rows.bit_count()) for piece in commit.slices))
        for piece in commit.slices:
            chunk = self._leased(piece.chunk_id, piece.token)
            if piece.rows & ~chunk.missing:
                raise IllegalMove(f"part {commit.part.part_id} repeats rows of chunk {chunk.chunk_id}")
            tally = tally + piece.tally
            covered = chunk.covered | piece.rows
            if covered == full(chunk.count):
                state = next_state(chunk.chunk_id, chunk.state, ChunkMove.COVER)
                images.append(self._put_chunk(replace(chunk, covered=covered, state=state)))
            else:
                images.append(self._put_chunk(replace(chunk, covered=covered)))
        parts[commit.part.part_id] = commit.part
        return (
            *images,
            self._put_batch(replace(batch, tally=tally, spans=spans)),
            Image("parts", commit.part.part_id, commit.part, batch.batch_id),
        )

    def _replace_parts(self, change: c.PartsReplaced) -> tuple[Image, ...]:
        parts = self.parts[change.batch_id]
        missing = [part_id for part_id in change.replaced if part_id not in parts]
        if missing:
            raise IllegalMove(f"compaction of {change.batch_id} replaces unknown parts {missing}")
        for part_id in change.replaced:
            del parts[part_id]
        parts[change.part.part_id] = change.part
        return (
            *(Image("parts", part_id, None, change.batch_id) for part_id in change.replaced),
            Image("parts", change.part.part_id, change.part, change.batch_id),
        )

    def _reopen(self, change: c.BatchReopened) -> tuple[Image, ...]:
        batch = self.batches[change.batch_id]
        after = reopened(batch, change.spans, change.tally, change.output_file_id, change.error_file_id)
        after = anew(after, change.at)
        redrive = Redrive(batch.batch_id, after.round, change.spans)
        self.redrives.setdefault(batch.batch_id, {})[redrive.round] = redrive
        image = self._put_batch(after)
        self.active = {batch_id: None for batch_id in self.batches if batch_id in self.active}  # oldest first
        return (
            image,
            redrive_image(redrive),
            *(self._put_chunk(self._redriven(batch, span)) for span in change.spans),
            *self._counters(),
        )

    def _delete(self, batch_id: str) -> tuple[Image, ...]:
        batch = self.batches[batch_id]
        if batch.active:
            raise IllegalMove(f"batch {batch_id} is {batch.status}: it cannot be deleted")
        files = [file.file_id for file in self.files.values() if file.batch_id == batch_id]
        entries = self.subject_log.pop(batch_id, ())
        for file_id in files:
            del self.files[file_id]
        for entry_id in entries:
            del self.log[entry_id]
        del self.batches[batch_id]
        self.batch_chunks.pop(batch_id, None)
        return (
            *(Image("files", file_id, None) for file_id in files),
            *(Image("parts", part_id, None, batch_id) for part_id in self.parts.pop(batch_id, ())),
            *(
                Image("redrives", redrive_key(batch_id, round_), None)
                for round_ in self.redrives.pop(batch_id, ())
            ),
            *(Image("log", entry_id, None) for entry_id in entries),
            Image("batches", batch_id, None),
        )

    def _redriven(self, batch: Batch, span: RowSpan) -> Chunk:
        return redriven(self._draw_chunk_id(), batch.batch_id, span)

    def _log(self, logged: c.Logged) -> tuple[Image, ...]:
        entry = LogEntry(
            self.next_entry_id, logged.at, logged.kind, logged.message, logged.batch_id, logged.engine_id
        )
        self.next_entry_id += 1
        dropped = self._put_entry(entry)
        return (
            Image("log", entry.entry_id, entry),
            *(Image("log", entry_id, None) for entry_id in dropped),
            Image("counters", "next_entry_id", self.next_entry_id),
        )

    # -- volatile changes ----------------------------------------------------------------------------------

    def _apply_volatile(self, change: c.Change) -> None:
        match change:
            case c.EngineSeen(report, at_mono, starts, ordered):
                self.engines[report.engine_id] = EngineEntry(report, at_mono, starts, ordered=ordered)
                self._note_models(report, at_mono)
            case c.EngineLost(engine_id):
                self.engines[engine_id] = replace(self.engines[engine_id], lost=True)
            case c.LeaseRenewed(chunk_id, deadline_mono):
                self.lease_deadlines[chunk_id] = deadline_mono
            case c.ChoreNoted(chore, None):
                self.chores.pop(chore, None)
            case c.ChoreNoted(chore, due_mono):
                assert due_mono is not None
                self.chores[chore] = due_mono
            case c.DrainSet(on):
                self.draining = on
            case c.LaneTurn(engine_id):
                self.lanes[engine_id] = change
            case c.ClockRead(offset_s):
                self.clock_offset_s = offset_s
            case c.SurroundingsNoted(seen):
                self.surroundings = seen
            case _:
                raise IllegalMove(f"unknown change {type(change).__name__}")

    def _note_models(self, report: EngineReport, at_mono: float) -> None:
        for model in report.models[:1]:
            if report.phase is EnginePhase.READY:
                self.model_served_mono[model] = at_mono
                self.model_faults.pop(model, None)
            elif report.phase is EnginePhase.FAILED:
                self.model_faults[model] = ModelFault(report.error or "no reason given", at_mono)

    # -- entities ------------------------------------------------------------------------------------------

    def _leased(self, chunk_id: int, token: int) -> Chunk:
        chunk = self.chunks.get(chunk_id)
        if chunk is None or chunk.state is not ChunkState.LEASED or chunk.token != token:
            raise IllegalMove(f"chunk {chunk_id} is not leased under token {token}")
        return chunk

    def _put_file(self, file: File) -> Image:
        self.files[file.file_id] = file
        return Image("files", file.file_id, file)

    def _put_batch(self, batch: Batch) -> Image:
        self.batches[batch.batch_id] = batch
        if batch.active:
            self.active[batch.batch_id] = None
        else:
            self.active.pop(batch.batch_id, None)
        return Image("batches", batch.batch_id, batch)

    def _placed(self, batch: Batch) -> Batch:
        """Older versions gave none: theirs come in the order of their journal."""
        return batch if batch.place else replace(batch, place=self.next_place)

    def _put_chunk(self, chunk: Chunk) -> Image:
        live = self.batch_chunks.setdefault(chunk.batch_id, {})
        self.holdings.replace(self.chunks.get(chunk.chunk_id), chunk)
        if chunk.state is ChunkState.COMPLETED:
            self.chunks.pop(chunk.chunk_id, None)
            live.pop(chunk.chunk_id, None)
            self.lease_deadlines.pop(chunk.chunk_id, None)
        else:
            self.chunks[chunk.chunk_id] = chunk
            live[chunk.chunk_id] = None
        return Image("chunks", chunk.chunk_id, chunk)

    def _draw_chunk_id(self) -> int:
        self.next_chunk_id += 1
        return self.next_chunk_id - 1

    def _put_entry(self, entry: LogEntry) -> list[int]:
        """Entry ids that had to go for it."""
        self.log[entry.entry_id] = entry
        kept = self.subject_log.setdefault(entry.batch_id or entry.engine_id or "", deque())
        kept.append(entry.entry_id)
        dropped = [kept.popleft() for _ in range(len(kept) - LOG_ENTRIES_MAX)]
        for entry_id in dropped:
            del self.log[entry_id]
        return dropped

    def _counters(self) -> tuple[Image, Image]:
        return (
            Image("counters", "next_token", self.next_token),
            Image("counters", "next_chunk_id", self.next_chunk_id),
        )
