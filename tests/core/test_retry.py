"""A retry is a new round: some rows run again, the others' results stay, old files keep their bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raybatch.core.commands import Lease, Rejection, StartClosing, StartCompaction, Verdict, WakeEngines
from raybatch.core.events import ChoreBroke, FileDeletionAsked, IntakeEnded, PartsCompacted, PartWritten
from raybatch.core.model import BatchStatus, LineError, PartFile, RowSpan, Tally, Usage
from raybatch.core.policy import Policy
from raybatch.core.rounds import visible_parts
from tests.core.scene import ASKED, MODEL, Scene, part_of, retry_of, slice_of

#: of the batch below, whose first three rows failed
ALL_FAILED = RowSpan(0, 0b111, 1)
EMPTY = LineError("empty_file", "no request", None, None)


@pytest.fixture
def scene() -> Scene:
    """Ended, with 17 completed rows of 20 and 3 failed ones."""
    scene = Scene(Policy(compaction_fan_in=2))
    scene.accept(20)
    scene.finish(failed=3)
    assert scene.batch().tally == Tally(17, 3, 170, 30, Usage(17, 34, 0))
    return scene


def leases(scene: Scene) -> tuple[Lease, ...]:
    return scene.report(wants_rows=1_000).leases


def rows_at(part: PartFile, rows: int) -> int:
    """How many of ``rows`` positions a reader of the part sees."""
    return len(set(range(rows)) - set(part.masked))


# -- reopened ----------------------------------------------------------------------------------------------


def test_some_failed_rows_run_again_and_nothing_else_does(scene: Scene) -> None:
    before = scene.batch()
    answer = scene.retry(RowSpan(0, 0b101, 4))
    assert scene.commands == [WakeEngines(MODEL)]
    again = scene.batch()
    assert answer == again
    assert (again.status, again.round, again.completed_at) == (BatchStatus.IN_PROGRESS, 2, None)
    assert again.tally == before.tally - Tally(0, 2, 0, 20)
    assert again.output_file_id != before.output_file_id
    (lease,) = leases(scene)
    assert (lease.first, lease.rows, lease.attempt) == (0, 0b101, 5)
    assert scene.write("round_2", slice_of(lease, failed=1)) == (Verdict.ACCEPTED,)
    ended = scene.batch()
    assert (ended.status, ended.tally.completed, ended.tally.failed) == (BatchStatus.COMPLETED, 18, 2)
    assert (ended.tally.output_bytes, ended.tally.error_bytes) == (180, 20)


def test_old_files_keep_their_bytes_and_new_ones_show_the_new_round(scene: Scene) -> None:
    old_files = {file_id: file for file_id, file in scene.state.files.items() if file.batch_id == "batch_1"}
    scene.retry(ALL_FAILED)
    (lease,) = leases(scene)
    scene.write("round_2", slice_of(lease))
    ended = scene.batch()
    assert old_files == {file_id: scene.state.files[file_id] for file_id in old_files}
    assert {file.round for file in old_files.values()} == {1}
    assert (scene.state.files[ended.output_file_id].size_bytes, ended.tally.failed) == (200, 0)
    assert ended.error_file_id not in scene.state.files  # there is never an empty file
    parts, drives = scene.state.parts["batch_1"], scene.state.redrives["batch_1"]
    shown = {
        round_: {
            part.part_id: rows_at(part, part.rows)
            for part in visible_parts(parts.values(), drives.values(), round_)
        }
        for round_ in (1, 2)
    }
    assert shown == {1: {"part_batch_1_1": 20}, 2: {"part_batch_1_1": 17, "round_2": 3}}


def test_a_row_that_fails_again_may_be_tried_a_third_time(scene: Scene) -> None:
    for round_ in (2, 3, 4):
        scene.retry(ALL_FAILED)
        (lease,) = leases(scene)
        scene.write(f"round_{round_}", slice_of(lease, failed=3))
        assert (scene.batch().round, scene.batch().tally.failed) == (round_, 3)
    parts, drives = scene.state.parts["batch_1"], scene.state.redrives["batch_1"]
    for round_ in (1, 2, 3, 4):
        shown = visible_parts(parts.values(), (drive for drive in drives.values()), round_)
        assert [part.part_id for part in shown if {0, 1, 2}.isdisjoint(part.masked)] == [
            f"round_{round_}" if round_ > 1 else "part_batch_1_1"
        ]


def test_a_cancelled_batch_is_taken_up_where_it_was_left() -> None:
    scene = Scene()
    scene.accept(20)
    scene.cancel()
    scene.wait(1.0)
    close(scene)
    assert scene.batch().status is BatchStatus.CANCELLED
    scene.retry(RowSpan(0, (1 << 20) - 1, 1))
    assert (scene.batch().cancelling_at, scene.batch().cancelled_at) == (None, None)
    (lease,) = leases(scene)
    assert lease.rows.bit_count() == 20
    scene.write("p", slice_of(lease))
    assert (scene.batch().status, scene.batch().tally.completed) == (BatchStatus.COMPLETED, 20)


def close(scene: Scene) -> None:
    (command,) = [command for command in scene.commands if isinstance(command, StartClosing)]
    pieces = tuple(slice_of(lease, failed=lease.rows.bit_count()) for lease in command.leases)
    part = part_of(f"closing_{scene.batch().round}", *pieces)
    scene.say(PartWritten("r", "closing", "batch_1", part, pieces))


# -- said twice, too late, or at a bad moment --------------------------------------------------------------


def test_the_same_retry_twice_is_one(scene: Scene) -> None:
    asked = retry_of(scene.batch(), ALL_FAILED)
    first = scene.say(asked)
    leases(scene)
    assert scene.say(asked) == scene.batch()
    assert (scene.commands, scene.batch().round, scene.batch().tally) == ([], 2, first.tally)


def test_two_who_ask_at_once_get_one_round_and_a_conflict(scene: Scene) -> None:
    asked = retry_of(scene.batch(), ALL_FAILED)
    scene.say(asked)
    late = scene.say(replace(asked, output_file_id="file_other", error_file_id="file_other_err"))
    assert (late.kind, late.message.split(":")[0]) == (
        "Conflict",
        "Cannot retry a batch with status 'in_progress'",
    )
    (lease,) = leases(scene)
    scene.write("round_2", slice_of(lease, failed=3))
    late = scene.say(replace(asked, output_file_id="file_other", error_file_id="file_other_err"))
    assert (late.kind, scene.batch().round) == ("Conflict", 2)


def test_a_retry_during_a_compaction_of_the_round_before(scene: Scene) -> None:
    scene = Scene(Policy(compaction_fan_in=2))
    scene.accept(20)
    (lease,) = scene.report(wants_rows=20, window=40).leases
    scene.write("p1", slice_of(lease, 0b111, failed=3))
    scene.write("p2", slice_of(lease, lease.rows & ~0b111))
    scene.wait(1.0)
    (started,) = scene.commands
    assert isinstance(started, StartCompaction)
    scene.retry(ALL_FAILED)
    merged = PartFile("merged", "results/merged.parquet", 1, 20, "crc32c:0", level=1)
    scene.say(PartsCompacted("batch_1", merged, tuple(part.part_id for part in started.parts)))
    assert scene.state.parts["batch_1"]["merged"].round == 1
    (again,) = leases(scene)
    scene.write("round_2", slice_of(again))
    parts, drives = scene.state.parts["batch_1"].values(), scene.state.redrives["batch_1"].values()
    assert [part.masked for part in visible_parts(parts, drives, 1)] == [()]
    assert [part.masked for part in visible_parts(parts, drives, 2)] == [(0, 1, 2), ()]
    scene.wait(1.0)
    assert scene.commands == []  # files of two rounds are never merged


def test_a_batch_cancelled_in_its_second_round_ends_with_every_row(scene: Scene) -> None:
    scene.retry(ALL_FAILED)
    (lease,) = leases(scene)
    scene.write("p", slice_of(lease, 0b001))
    scene.cancel()
    assert scene.report(held=(lease,)).dropped == (lease.chunk_id,)
    scene.report(held=())
    scene.wait(1.0)
    close(scene)
    ended = scene.batch()
    assert (ended.status, ended.tally.completed, ended.tally.failed) == (BatchStatus.CANCELLED, 18, 2)
    assert scene.write("late", slice_of(lease, 0b110)) == (Verdict.STALE,)


def test_a_second_round_cancelled_before_any_engine_took_it(scene: Scene) -> None:
    scene.retry(RowSpan(1, 0b1, 1), RowSpan(2, 0b1, 1))
    scene.cancel()
    scene.wait(1.0)
    (command,) = scene.commands
    assert isinstance(command, StartClosing)
    scene.say(ChoreBroke("closing:batch_1", "killed"))
    scene.wait(1.0)
    close(scene)
    assert (scene.batch().status, scene.batch().tally.failed) == (BatchStatus.CANCELLED, 3)


def test_an_upload_deleted_between_the_rounds_is_still_there_to_be_read(scene: Scene) -> None:
    scene.say(FileDeletionAsked("r", "t", "file_in"))
    assert scene.commands == []  # hidden, its bytes stay
    scene.retry(ALL_FAILED)
    (lease,) = leases(scene)
    assert lease.input_file_id in scene.state.files
    scene.write("round_2", slice_of(lease))
    assert scene.batch().status is BatchStatus.COMPLETED


def test_what_is_left_over_from_the_round_before_changes_nothing(scene: Scene) -> None:
    old = Lease(1, 1, "batch_1", "file_in", "/v1", 0, 20, (1 << 20) - 1, 1)
    scene.retry(ALL_FAILED)
    before = scene.batch()
    assert scene.write("late", slice_of(old)) == (Verdict.STALE,)
    assert scene.write("part_batch_1_1", slice_of(old)) == (Verdict.ALREADY,)
    assert scene.report(held=(old,)).dropped == (1,)
    scene.say(IntakeEnded("batch_1", 20, MODEL, 200, ()))
    assert scene.batch() == before


def test_a_restart_in_the_second_round_forgets_nothing(scene: Scene) -> None:
    scene.retry(RowSpan(0, 0b101, 1))
    before = scene.batch()
    scene.restart()
    assert scene.batch() == before
    assert scene.state.redrives["batch_1"][2].spans == (RowSpan(0, 0b101, 1),)
    (lease,) = leases(scene)
    scene.write("round_2", slice_of(lease))
    assert scene.batch().status is BatchStatus.COMPLETED


def test_reopened_batches_are_served_in_the_order_they_were_made(scene: Scene) -> None:
    scene.accept(20, "batch_2")
    scene.retry(ALL_FAILED)
    assert list(scene.state.active) == ["batch_1", "batch_2"]


# -- refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spans",
    [
        (RowSpan(0, 0b111, 1), RowSpan(2, 0b1, 1)),  # a position twice
        (RowSpan(2, 0b1, 1), RowSpan(0, 0b1, 1)),  # not ascending
        (RowSpan(-1, 0b1, 1),),
        (RowSpan(19, 0b11, 1),),  # past the end
        (RowSpan(0, 0, 1),),
        (RowSpan(0, -1, 1),),
        (RowSpan(0, 1 << 4096, 1),),
        (RowSpan(0, 0b1111, 1),),  # four of three failed ones
    ],
)
def test_spans_that_cannot_be_the_failed_rows_are_refused(scene: Scene, spans: tuple[RowSpan, ...]) -> None:
    before = scene.batch()
    assert scene.retry(*spans).kind == "BadRequest"
    assert scene.batch() == before


@pytest.mark.parametrize(
    "tally",
    [
        Tally(1, 2, 0, 20),  # a completed row among them
        Tally(0, 2, 0, 20),
        Tally(0, 3, 10, 30),
        Tally(0, 3, 0, 31),  # more bytes than the error file has
        Tally(0, 3, 0, -1),
        Tally(0, 3, 0, 30, Usage(21, 0, 0)),
        Tally(-3, 3, 0, 30),
    ],
)
def test_a_tally_that_would_leave_wrong_counts_is_refused(scene: Scene, tally: Tally) -> None:
    before = scene.batch()
    refused = scene.say(replace(retry_of(before, ALL_FAILED), tally=tally))
    assert (refused.kind, scene.batch()) == ("BadRequest", before)


def test_nothing_to_retry_a_batch_that_runs_and_one_that_is_not_ours(scene: Scene) -> None:
    assert scene.retry().message == "No failed request matches: there is nothing to retry."
    other: Any = scene.say(replace(retry_of(scene.batch(), ALL_FAILED), tenant="other"))
    unknown = scene.say(replace(retry_of(scene.batch(), ALL_FAILED), batch_id="batch_9"))
    assert (other.kind, unknown.kind) == ("NotFound", "NotFound")
    stale = scene.say(replace(retry_of(scene.batch(), ALL_FAILED), round=2))
    assert isinstance(stale, Rejection)
    assert stale.message == "The batch was retried meanwhile: look at it, then ask again."
    scene.say(replace(ASKED, batch_id="batch_2"))
    scene.say(IntakeEnded("batch_2", 0, None, 0, (EMPTY,)))
    failed = scene.say(retry_of(scene.batch("batch_2"), ALL_FAILED))
    assert "status 'failed'" in failed.message
