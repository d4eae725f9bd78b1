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
    Tick,
)
from raybatch.core.model import Batch, File, PartFile, PartSlice, Tally, Usage
from raybatch.core.policy import Policy
from raybatch.core.state import State, check_invariants

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

    def accept(self, total: int, batch_id: str = "batch_1", *, model: str = MODEL, priority: int = 0) -> None:
        """A batch of ``total`` rows, asked for and taken in."""
        number = batch_id.removeprefix("batch_")
        asked = replace(ASKED, batch_id=batch_id, request_key=batch_id, priority=priority)
        self.say(replace(asked, output_file_id=f"file_out{number}", error_file_id=f"file_err{number}"))
        self.say(IntakeEnded(batch_id, total, model, 10 * total, ()))

    def cancel(self, batch_id: str = "batch_1") -> Any:
        return self.say(CancelAsked("r", "t", batch_id))

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
        model: str = MODEL,
    ) -> EngineOrders:
        self._seq[engine_id] = self._seq.get(engine_id, 0) + 1 if seq is None else seq
        orders = self.say(
            EngineReport(
                reply_to="r",
                engine_id=engine_id,
                incarnation=incarnation,
                seq=self._seq[engine_id],
                models=(model,),
                phase=phase,
                held=tuple(HeldLease(lease.chunk_id, lease.token) for lease in held),
                wants_rows=wants_rows,
                window=window,
                running=0,
                rows_per_s=0.0,
                tokens_per_s=0.0,
                pid=1,
                child_pids=(),
            )
        )
        assert isinstance(orders, EngineOrders)
        return orders

    def write(self, part_id: str, *slices: PartSlice, batch_id: str = "batch_1") -> Any:
        """The verdicts on a part with these slices."""
        return self.say(PartWritten("r", "e1", batch_id, part_of(part_id, *slices), slices))


def part_of(part_id: str, *slices: PartSlice) -> PartFile:
    rows = sum(piece.rows.bit_count() for piece in slices)
    return PartFile(part_id, f"results/{part_id}.parquet", 1, rows, "crc32c:0")


def slice_of(lease: Lease, rows: int | None = None, *, failed: int = 0) -> PartSlice:
    """Of all rows of the lease unless ``rows`` is given; every line is 10 bytes long."""
    bitmap = lease.rows if rows is None else rows
    completed = bitmap.bit_count() - failed
    tally = Tally(completed, failed, 10 * completed, 10 * failed, Usage(completed, 2 * completed, 0))
    return PartSlice(lease.chunk_id, lease.token, lease.first, bitmap, tally)
