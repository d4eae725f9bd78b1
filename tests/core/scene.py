"""A scheduler's decisions on a table: say something, time passes, look at the answer and the state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raybatch.core.commands import Command, EngineOrders, Lease, Reply
from raybatch.core.decide import decide
from raybatch.core.events import (
    BatchAsked,
    CancelAsked,
    EnginePhase,
    EngineReport,
    Event,
    FileStored,
    HeldLease,
    IntakeEnded,
    Now,
    PartWritten,
    PauseAsked,
    QuietMode,
    RetryAsked,
    RowsInFlight,
    SurroundingsSeen,
    Tick,
)
from raybatch.core.fitness import FIT, GpuVerdict
from raybatch.core.invariants import check_invariants
from raybatch.core.model import Batch, File, LogEntry, PartFile, PartSlice, RowSpan, Tally, Usage
from raybatch.core.policy import Policy
from raybatch.core.state import State

MODEL = "smollm2"
ASKED = BatchAsked(
    reply_to="r",
    batch_id="batch_1",
    tenant="t",
    input_file_id="file_in",
    output_file_id="file_out",
    error_file_id="file_err",
    endpoint="/v1/chat/completions",
    completion_window="24h",
    completion_window_s=86_400.0,
    metadata=None,
    priority=0,
    request_key="digest",
    idempotency_key=None,
    is_retry=False,
)


class Scene:
    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.state = State()
        self.wall = 1_700_000_000.0
        self.mono = 50.0
        self.commands: list[Command] = []  #: of the last event, its reply left out
        self._seq: dict[str, int] = {}
        self.say(FileStored("r", File("file_in", "t", "batch", "in.jsonl", 100, self.wall)))

    def say(self, event: Event) -> Any:
        """The value of the reply, None when there was none."""
        self.wall += 1.0
        decision = decide(self.state, event, Now(self.wall, self.mono), self.policy)
        for change in decision.changes:
            self.state.apply(change)
        check_invariants(self.state)
        self.commands = [command for command in decision.commands if not isinstance(command, Reply)]
        replies = [command.value for command in decision.commands if isinstance(command, Reply)]
        return replies[0] if replies else None

    def wait(self, seconds: float) -> None:
        self.mono += seconds
        self.say(Tick())

    def batch(self, batch_id: str = "batch_1") -> Batch:
        return self.state.batches[batch_id]

    def upload(self, file_id: str, lines: int) -> None:
        file = File(file_id, "t", "batch", "in.jsonl", 100, self.wall, lines=lines)
        self.say(FileStored("r", file))

    def accept(self, total: int, batch_id: str = "batch_1", *, model: str = MODEL, priority: int = 0) -> None:
        """A batch of ``total`` rows, asked for and taken in."""
        number = batch_id.removeprefix("batch_")
        asked = replace(ASKED, batch_id=batch_id, request_key=batch_id, priority=priority)
        self.say(replace(asked, output_file_id=f"file_out{number}", error_file_id=f"file_err{number}"))
        self.say(IntakeEnded(batch_id, total, model, 10 * total, ()))

    def cancel(self, batch_id: str = "batch_1") -> Any:
        return self.say(CancelAsked("r", "t", batch_id))

    def pause(self, batch_id: str | None = "batch_1", *, on: bool = True) -> Any:
        return self.say(PauseAsked("r", "t", batch_id, on))

    def retry(self, *spans: RowSpan, batch_id: str = "batch_1") -> Any:
        return self.say(retry_of(self.batch(batch_id), *spans))

    def look_around(self, *, disk_free_bytes: int = 1 << 40, quiet: QuietMode | None = None) -> None:
        self.say(SurroundingsSeen(disk_free_bytes, quiet))

    def restart(self) -> None:
        """The process is gone, and with it everything volatile."""
        images = self.state.images()
        self.state = State()
        self.state.load(images)

    def log(self, subject: str = "batch_1") -> list[LogEntry]:
        """Of a batch, or of an engine's own; the oldest first."""
        return [self.state.log[entry_id] for entry_id in self.state.subject_log.get(subject, ())]

    def finish(self, *, failed: int = 0, batch_id: str = "batch_1", engine_id: str = "e1") -> None:
        """One part with every row that is left; ``failed`` of each lease."""
        model = self.batch(batch_id).model
        assert model is not None
        leases = self.report(engine_id, wants_rows=10_000, window=10_000, model=model).leases
        slices = tuple(slice_of(lease, failed=failed) for lease in leases if lease.batch_id == batch_id)
        self.write(f"part_{batch_id}_{self.batch(batch_id).round}", *slices, batch_id=batch_id)
        assert not self.batch(batch_id).active

    def report(
        self,
        engine_id: str = "e1",
        *,
        held: tuple[Lease, ...] = (),
        wants_rows: int = 0,
        window: int = 8,
        incarnation: float = 1.0,
        seq: int | None = None,
        phase: EnginePhase = EnginePhase.READY,
        model: str | None = MODEL,
        slot: bool = False,
        ready_s: float = 0.0,
        load_s: float = 0.0,
        rows_per_s: float = 0.0,
        verdict: GpuVerdict = FIT,
        error: str | None = None,
        in_flight: tuple[RowsInFlight, ...] = (),
    ) -> EngineOrders:
        self._seq[engine_id] = self._seq.get(engine_id, 0) + 1 if seq is None else seq
        orders = self.say(
            EngineReport(
                reply_to="r",
                engine_id=engine_id,
                incarnation=incarnation,
                seq=self._seq[engine_id],
                models=() if model is None else (model,),
                phase=phase,
                held=tuple(HeldLease(lease.chunk_id, lease.token) for lease in held),
                wants_rows=wants_rows,
                window=window,
                running=0,
                rows_per_s=rows_per_s,
                tokens_per_s=0.0,
                pid=1,
                child_pids=(),
                error=error,
                slot=slot,
                serves=("a", "b", "c", "broken", MODEL) if slot else (),
                load_s=load_s,
                ready_s=ready_s,
                verdict=verdict,
                in_flight=in_flight,
            )
        )
        assert isinstance(orders, EngineOrders)
        return orders

    def write(self, part_id: str, *slices: PartSlice, batch_id: str = "batch_1") -> Any:
        """The verdicts on a part with these slices."""
        return self.say(PartWritten("r", "e1", batch_id, part_of(part_id, *slices), slices))


def retry_of(batch: Batch, *spans: RowSpan) -> RetryAsked:
    """Every failed row as ``slice_of`` made it."""
    rows = sum(span.rows.bit_count() for span in spans)
    tally = Tally(0, rows, 0, 10 * rows)
    names = f"{batch.output_file_id}_{batch.round + 1}", f"{batch.error_file_id}_{batch.round + 1}"
    return RetryAsked("r", "t", batch.batch_id, batch.round, spans, tally, *names)


def part_of(part_id: str, *slices: PartSlice) -> PartFile:
    rows = sum(piece.rows.bit_count() for piece in slices)
    return PartFile(part_id, f"results/{part_id}.parquet", 1, rows, "crc32c:0")


def slice_of(lease: Lease, rows: int | None = None, *, failed: int = 0) -> PartSlice:
    """Of all rows of the lease unless ``rows`` is given; every line is 10 bytes long."""
    bitmap = lease.rows if rows is None else rows
    completed = bitmap.bit_count() - failed
    tally = Tally(completed, failed, 10 * completed, 10 * failed, Usage(completed, 2 * completed, 0))
    return PartSlice(lease.chunk_id, lease.token, lease.first, bitmap, tally)
