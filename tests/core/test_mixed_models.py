"""A relaxed batch of several models: each engine gets the rows of its own, and the batch ends with the last.

Batches here have the models' rows one behind the other, as intake writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest

from raybatch.core.changes import LeaseGranted
from raybatch.core.commands import Lease, StartClosing, WakeEngines
from raybatch.core.estimate import time_left
from raybatch.core.events import EnginePhase, IntakeEnded, PartWritten, RowsInFlight
from raybatch.core.model import BatchStatus, ModelRate, ModelSpan, RowSpan, Validation
from raybatch.core.policy import Policy
from raybatch.core.state import State
from raybatch.errors import IllegalMove
from raybatch.ledger.duckdb_ledger import DuckDBLedger
from tests.core.scene import ASKED, Scene, part_of, slice_of


def spans_of(rows: Mapping[str, int], row_tokens: int = 10) -> tuple[ModelSpan, ...]:
    ends = accumulate(rows.values())
    return tuple(
        ModelSpan(model, end - count, count, row_tokens * count)
        for (model, count), end in zip(rows.items(), ends, strict=True)
    )


def accept(scene: Scene, batch_id: str = "batch_1", *, priority: int = 0, **rows: int) -> None:
    """A batch with so many rows of each model."""
    number = batch_id.removeprefix("batch_")
    asked = replace(ASKED, batch_id=batch_id, priority=priority, validation=Validation.RELAXED)
    scene.say(replace(asked, output_file_id=f"file_out{number}", error_file_id=f"file_err{number}"))
    total = sum(rows.values())
    scene.say(IntakeEnded(batch_id, total, None, 10 * total, (), spans_of(rows)))


@pytest.fixture
def scene() -> Scene:
    """Positions 0 to 99 are model a's, 100 to 149 model b's."""
    scene = Scene()
    accept(scene, a=100, b=50)
    return scene


def leases(scene: Scene, model: str, rows: int = 1_000, held: tuple[Lease, ...] = ()) -> tuple[Lease, ...]:
    """Of the engine named after its model."""
    return scene.report(model, model=model, wants_rows=rows, window=rows, held=held).leases


def positions(found: tuple[Lease, ...]) -> list[int]:
    return sorted(lease.first + i for lease in found for i in range(lease.count) if lease.rows >> i & 1)


def finish(scene: Scene, model: str, part_id: str, *, failed: int = 0, batch_id: str = "batch_1") -> None:
    """Every row of the model that is left, in one part; so many of each lease fail."""
    slices = (slice_of(lease, failed=failed) for lease in leases(scene, model))
    scene.write(part_id, *slices, batch_id=batch_id)


# -- leased ------------------------------------------------------------------------------------------------


def test_a_mixed_batch_wakes_the_engines_of_all_its_models_and_names_none_of_them_as_its_own() -> None:
    scene = Scene()
    accept(scene, a=100, b=50)
    assert scene.commands == [WakeEngines("a"), WakeEngines("b")]
    assert (scene.batch().model, scene.batch().total) == (None, 150)
    assert "150 requests for a, b" in scene.log()[-1].message


def test_every_engine_gets_the_rows_of_its_model_and_no_other(scene: Scene) -> None:
    assert positions(leases(scene, "b")) == list(range(100, 150))
    assert positions(leases(scene, "a")) == list(range(100))
    assert leases(scene, "c") == ()
    assert [entry.kind for entry in scene.log()].count("started") == 1


def test_no_chunk_crosses_from_one_model_into_the_next(scene: Scene) -> None:
    held: tuple[Lease, ...] = ()
    while fresh := leases(scene, "a", rows=30, held=held):
        held += fresh
    assert positions(held) == list(range(100))
    (lease, *_) = leases(scene, "b", rows=16)
    assert (lease.first, lease.count) == (100, 16)


def test_a_models_rows_go_on_when_anothers_are_done_and_the_batch_ends_with_the_last(scene: Scene) -> None:
    finish(scene, "a", "p1")
    assert scene.batch().status is BatchStatus.IN_PROGRESS
    assert leases(scene, "a") == ()
    finish(scene, "b", "p2", failed=5)
    ended = scene.batch()
    assert (ended.status, ended.tally.completed, ended.tally.failed) == (BatchStatus.COMPLETED, 145, 5)


def test_batches_share_an_engine_by_what_they_have_of_its_model() -> None:
    scene = Scene()
    accept(scene, "batch_1", a=10_000, b=20)
    accept(scene, "batch_2", b=10_000, a=20)
    found = leases(scene, "b", rows=400)
    rows: Counter[str] = Counter()
    for lease in found:
        rows[lease.batch_id] += lease.count
    assert rows == {"batch_1": 20, "batch_2": 380}


def test_a_lease_says_how_long_rows_of_its_model_are() -> None:
    scene = Scene()
    spans = (ModelSpan("a", 0, 10, 1_000), ModelSpan("b", 10, 10, 50))
    scene.say(ASKED)
    scene.say(IntakeEnded("batch_1", 20, None, 1_050, (), spans))
    assert [leases(scene, model)[0].row_tokens for model in "ab"] == [100.0, 5.0]


def test_rows_of_a_lost_lease_go_to_the_next_engine_of_their_model(scene: Scene) -> None:
    (lease, *_) = leases(scene, "b", rows=16)
    scene.write("p1", slice_of(lease, 0b1111))
    scene.report("b", model="b", incarnation=2.0)
    assert leases(scene, "a", rows=16)[0].first == 0
    again = scene.report("b2", model="b", wants_rows=16).leases[0]
    assert (again.chunk_id, again.rows) == (lease.chunk_id, lease.rows & ~0b1111)


def test_the_state_refuses_a_chunk_of_two_models(scene: Scene) -> None:
    with pytest.raises(IllegalMove, match="expected up to 100 from 0, up to 50 from 100"):
        scene.state.apply(LeaseGranted(1, "batch_1", 90, 20, 1, "a"))
    leases(scene, "a", rows=64)
    grant = LeaseGranted(scene.state.next_chunk_id, "batch_1", 64, 60, scene.state.next_token, "a")
    with pytest.raises(IllegalMove, match="expected up to 36 from 64"):
        scene.state.apply(grant)


# -- placed ------------------------------------------------------------------------------------------------


def test_a_slot_serves_one_model_after_the_other_and_swaps_when_the_first_has_no_row_left() -> None:
    scene = Scene(Policy(turn_s=100.0))
    accept(scene, a=20, b=20)

    def told(model: str | None, phase: EnginePhase, held: tuple[Lease, ...] = ()) -> str | None:
        return scene.report("slot", slot=True, model=model, phase=phase, held=held).model

    assert told(None, EnginePhase.IDLE) == "a"
    held = scene.report("slot", slot=True, model="a", wants_rows=1_000).leases
    assert positions(held) == list(range(20))
    assert told("a", EnginePhase.READY, held) is None
    scene.write("p1", *(slice_of(lease) for lease in held))
    assert told("a", EnginePhase.READY) == "b"
    held = scene.report("slot", slot=True, model="b", wants_rows=1_000).leases
    scene.write("p2", *(slice_of(lease) for lease in held))
    assert scene.batch().status is BatchStatus.COMPLETED
    assert told("b", EnginePhase.READY) is None


def test_rows_given_back_bring_their_model_back_into_the_slot() -> None:
    scene = Scene(Policy(turn_s=100.0))
    accept(scene, a=16, b=1_000)
    held = scene.report("slot", slot=True, model="a", wants_rows=16).leases
    scene.write("p1", slice_of(held[0], 0b1))
    assert scene.report("slot", slot=True, model="a", held=(), ready_s=1e9).model == "b"
    assert scene.report("slot", slot=True, model="b", ready_s=1e9).model == "a"


# -- ended early, or once more -----------------------------------------------------------------------------


def test_a_cancelled_mixed_batch_names_the_rest_of_every_model(scene: Scene) -> None:
    (lease, *_) = leases(scene, "b", rows=16)
    scene.write("p1", slice_of(lease))
    scene.cancel()
    scene.report("b", model="b")
    scene.wait(1.0)
    (closing_,) = scene.commands
    assert isinstance(closing_, StartClosing)
    assert positions(closing_.leases) == [*range(100), *range(116, 150)]
    slices = tuple(slice_of(one, failed=one.count) for one in closing_.leases)
    scene.say(PartWritten("r", closing_.chore, "batch_1", part_of("p2", *slices), slices))
    ended = scene.batch()
    assert (ended.status, ended.tally.completed, ended.tally.failed) == (BatchStatus.CANCELLED, 16, 134)


def test_a_retry_takes_rows_of_two_models_apart_even_out_of_one_span(scene: Scene) -> None:
    finish(scene, "a", "p1", failed=1)
    finish(scene, "b", "p2", failed=1)
    failed = scene.batch().tally.failed
    assert failed == 2
    scene.retry(RowSpan(98, 0b1010, 1))  # positions 99 and 101
    assert scene.commands == [WakeEngines("a"), WakeEngines("b")]
    assert positions(leases(scene, "a")) == [99]
    (again,) = leases(scene, "b")
    assert (positions((again,)), again.attempt) == ([101], 2)
    assert [span.finished for span in scene.batch().spans] == [99, 49]
    scene.write("p3", slice_of(again))
    scene.restart()
    scene.wait(0.0)
    finish(scene, "a", "p4")
    assert (scene.batch().status, scene.batch().tally.failed) == (BatchStatus.COMPLETED, 0)


def test_suspects_run_on_an_engine_of_their_own_model(scene: Scene) -> None:
    for life in (1.0, 2.0):
        held = scene.report("b", model="b", wants_rows=16, incarnation=life).leases
        fallen = tuple(RowsInFlight(lease.chunk_id, lease.token, 0b1) for lease in held)
        scene.report("b", model="b", phase=EnginePhase.DIED, in_flight=fallen, incarnation=life)
    (suspect,) = [chunk for chunk in scene.state.live_chunks("batch_1") if chunk.suspect]
    assert all(lease.chunk_id != suspect.chunk_id for lease in leases(scene, "a"))
    (lease,) = scene.report("b", model="b", wants_rows=16, incarnation=3.0).leases
    assert lease.chunk_id == suspect.chunk_id


# -- foreseen and remembered -------------------------------------------------------------------------------


def test_a_mixed_batch_ends_with_its_slowest_model_and_waits_only_for_what_shares_one() -> None:
    scene = Scene()
    accept(scene, "batch_1", a=100, b=100)
    accept(scene, "batch_2", b=50, c=1_000)
    rates = {model: ModelRate(model, pace, 0.0, 1.0, 0.0) for model, pace in (("a", 10.0), ("b", 5.0))}
    first, second = scene.batch("batch_1"), scene.batch("batch_2")
    assert time_left(second, (first, second), rates) is None  # of c nothing was measured
    alone, beside = time_left(first, (first,), rates), time_left(first, (first, second), rates)
    assert alone is not None
    assert beside is not None
    assert (alone.p50_s, beside.p50_s) == (200.0, 300.0)
    finish(scene, "c", "p1", batch_id="batch_2")
    left = time_left(scene.batch("batch_2"), (), rates)
    assert left is not None
    assert left.p50_s == 100.0


def test_the_ledger_gives_back_where_every_model_stands(scene: Scene, tmp_path: Path) -> None:
    (lease, *_) = leases(scene, "b", rows=16)
    scene.write("p1", slice_of(lease, 0b111))
    leases(scene, "a", rows=32)
    with closing(DuckDBLedger(tmp_path / "ledger.duckdb")) as ledger:
        ledger.commit(1, scene.state.images())
        state = State()
        state.load(ledger.load().images)
    assert state.batches == scene.state.batches
    assert [(span.model, span.cut, span.finished) for span in state.batches["batch_1"].spans] == [
        ("a", 32, 0),
        ("b", 16, 3),
    ]
    assert state.batches["batch_1"].validation is Validation.RELAXED
