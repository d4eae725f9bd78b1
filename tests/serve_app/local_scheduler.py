"""A scheduler in the test's own process: real decisions, a real snapshot, chores and an engine on call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from raybatch.actors import reads
from raybatch.actors.intake import IntakeLimits, take_in
from raybatch.actors.scheduler_port import raise_rejection
from raybatch.config import Home, Settings
from raybatch.core import events as e
from raybatch.core.admission import closed
from raybatch.core.commands import Command, Lease, RemoveBlob, Reply, StartClosing, StartIntake
from raybatch.core.decide import decide
from raybatch.core.estimate import Estimate
from raybatch.core.invariants import check_invariants
from raybatch.core.model import Batch, ModelRate, PartSlice, ResultRow, Tally, Usage
from raybatch.core.policy import Policy
from raybatch.core.rows import offsets_of
from raybatch.core.state import State
from raybatch.errors import Unavailable
from raybatch.storage.parts import write_part
from raybatch.storage.request_index import IndexReader, read_lines
from raybatch.wire.request_line import request_body
from raybatch.wire.result_line import Origin, Unanswered, answered_row, unanswered_row

ENGINE = "engine-1"
UP_S = 12.5


class LocalScheduler:
    """Chores wait until ``run_chores``, rows until ``run_rows``: a test sees every status on the way."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home, self.settings = home, settings
        self.down = False
        self.policy = Policy()
        self.eta: Estimate | None = None
        self._state, self._known, self._mono = State(), reads.Remembered(), 0.0
        self._chores: list[Command] = []
        self._drawn = 0
        self._wall_offset_s = 1_700_000_000.0

    async def ask(self, event: e.Event) -> Any:
        self._check_up()
        return raise_rejection(self._tell(event))

    async def read(self, what: str, *args: Any) -> Any:
        self._check_up()
        match what:
            case "overview":
                return self._overview()
            case "view":
                return reads.BatchView(
                    raise_rejection(reads.batch(self._known, *args)),
                    2.0,
                    20.0,
                    self.eta,
                    self._known.all_paused,
                )
            case "views":
                page = raise_rejection(reads.batches(self._known, *args))
                return reads.Page(tuple(map(reads.BatchView, page.items)), page.has_more)
            case _:
                return raise_rejection(getattr(reads, what)(self._known, *args))

    def set_clock(self, wall: float) -> None:
        """What the next event is decided under."""
        self._wall_offset_s = wall - self._mono - 1.0

    def look_around(self, disk_free_bytes: int) -> None:
        self._tell(e.SurroundingsSeen(disk_free_bytes, None))

    def run_chores(self) -> None:
        self._tell(e.Tick())
        while self._chores:
            match self._chores.pop(0):
                case StartIntake(batch_id):
                    self._intake(batch_id)
                case StartClosing(batch_id, _, leases):
                    self._write_part(batch_id, f"closing:{batch_id}", leases, self._cancelled)
                case RemoveBlob(file_id):
                    (self.home.files / file_id).unlink()
        check_invariants(self._state)

    def batches(self) -> list[Batch]:
        return list(self._known.batches.values())

    def report(
        self,
        phase: e.EnginePhase = e.EnginePhase.READY,
        wants_rows: int = 0,
        **more: Any,
    ) -> tuple[Lease, ...]:
        """Speak as the engine; leases of an earlier report that were not run are given back."""
        self._drawn += 1
        names = self.settings.models[0].names
        report = e.EngineReport(
            "r", ENGINE, 1.0, self._drawn, names, phase, (), wants_rows, 8, 0, 50.0, 500.0, 1, (), **more
        )
        leases: tuple[Lease, ...] = self._tell(report).leases
        return leases

    def measure(self, rows_per_s: float, tokens_per_s: float, deviation: float = 0.0) -> None:
        """Tell the first model's pace, as the scheduler's own measurement would."""
        rate = ModelRate(self.settings.models[0].id, tokens_per_s, deviation, rows_per_s, self._mono)
        self._tell(e.RatesMeasured((rate,)))

    def run_rows(self, count: int) -> None:
        """Lease ``count`` rows, answer and commit them. A body with ``"fail": n`` is answered by a 400 in its
        first n attempts, one with ``"fail": true`` always.
        """
        leases = self.report(wants_rows=count)
        for batch_id in dict.fromkeys(lease.batch_id for lease in leases):
            of_batch = tuple(lease for lease in leases if lease.batch_id == batch_id)
            self._write_part(batch_id, ENGINE, of_batch, self._answered)
        check_invariants(self._state)

    def _tell(self, event: e.Event) -> Any:
        self._mono += 1.0
        now = e.Now(self._wall_offset_s + self._mono, self._mono)
        decision = decide(self._state, event, now, self.policy)
        for change in decision.changes:
            self._known.take(self._state.apply(change))
        replies = [command for command in decision.commands if isinstance(command, Reply)]
        self._chores += [command for command in decision.commands if not isinstance(command, Reply)]
        return replies[0].value if replies else None

    def _check_up(self) -> None:
        if self.down:
            raise Unavailable("The scheduler cannot be reached.", retry_after_s=3)

    def _intake(self, batch_id: str) -> None:
        batch = self._state.batches[batch_id]
        report = take_in(
            self.home.files / batch.input_file_id,
            self.home.index_path(batch_id),
            endpoint=batch.endpoint,
            models=self.settings.canonical(),
            limits=IntakeLimits(),
        )
        verdict = report.total, report.model, report.expected_tokens, report.errors
        self._tell(e.IntakeEnded(batch_id, *verdict))

    def _write_part(self, batch_id: str, holder: str, leases: tuple[Lease, ...], answer: Any) -> None:
        rows: list[ResultRow] = []
        slices: list[PartSlice] = []
        for lease in leases:
            of_lease = [answer(*place) for place in self._requests(lease)]
            tally = sum(map(_tally, of_lease), Tally())
            slices.append(PartSlice(lease.chunk_id, lease.token, lease.first, lease.rows, tally))
            rows += of_lease
        self._drawn += 1
        part = write_part(self.home.root, batch_id, f"part-{self._drawn:04}", rows)
        self._tell(e.PartWritten("p", holder, batch_id, part, tuple(slices)))

    def _requests(self, lease: Lease) -> Iterator[tuple[Origin, bytes]]:
        blob = self.home.files / lease.input_file_id
        with IndexReader(self.home.index_path(lease.batch_id)) as index:
            for offset in offsets_of(lease.rows):
                position = lease.first + offset
                (entry,) = index.rows(position, 1)
                origin = Origin(position, entry.index, entry.custom_id, lease.attempt, ENGINE, 1.0, 2.0)
                yield origin, request_body(read_lines(blob, [entry])[0])

    def _answered(self, origin: Origin, body: bytes) -> ResultRow:
        request = msgspec.json.decode(body)
        fail = request.get("fail", 0)
        request["fail"] = fail is True or origin.attempt <= fail
        status = 400 if request["fail"] else 200
        reply = answer_to(request)
        ids = {"row_id": f"batch_req_{origin.index}", "request_id": f"req_{origin.index}"}
        return answered_row(origin, status, msgspec.json.encode(reply), **ids)

    def _cancelled(self, origin: Origin, body: bytes) -> ResultRow:
        return unanswered_row(origin, Unanswered.CANCELLED, row_id=f"batch_req_{origin.index}")

    def _overview(self) -> reads.Overview:
        batches = list(self._known.batches.values())
        engines = tuple(reads.engine_view(entry, 0, (), self._mono) for entry in self._state.engines.values())
        faults = self._state.model_faults
        return reads.Overview(
            version="test",
            pid=1,
            state="paused" if self._known.all_paused else "serving",
            up_s=UP_S,
            commits=int(self._mono),
            engines=engines,
            batches={str(batch.status): 1 for batch in batches},
            queued_rows=reads.queued_rows(self._known),
            closed=closed(self._state, self.policy),
            quiet=None,
            disk_free_bytes=None,
            models=tuple(
                reads.model_view(
                    model.id,
                    engines,
                    faults[model.id].error if model.id in faults else None,
                    self._known,
                )
                for model in self.settings.models
            ),
        )


def answer_to(request: dict[str, Any]) -> dict[str, Any]:
    if request.get("fail"):
        kind = request.get("error_type", "invalid_request_error")
        return {"error": {"message": "no", "type": kind, "param": None, "code": "nope"}}
    asked = request["messages"][-1]["content"]
    said = asked.removeprefix("say ") if asked.startswith("say ") else "ok"
    return {
        "model": request["model"],
        "choices": [{"message": {"content": said}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }


def _tally(row: ResultRow) -> Tally:
    size_bytes = len(row.line) + 1
    usage = Usage(row.prompt_tokens, row.completion_tokens, row.cached_tokens)
    if row.completed:
        return Tally(completed=1, output_bytes=size_bytes, usage=usage)
    return Tally(failed=1, error_bytes=size_bytes, usage=usage)


def blobs(home: Home) -> list[Path]:
    """Every file under the uploads and the scratch space, finished or not."""
    return [path for root in (home.files, home.scratch) for path in root.iterdir()]
