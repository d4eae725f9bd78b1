"""A batch from asked for to ended, and its files."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raybatch.core.commands import (
    Rejection,
    RemoveBlob,
    StartClosing,
    StartCompaction,
    StartIntake,
    Verdict,
    WakeEngines,
)
from raybatch.core.decide import recover
from raybatch.core.events import (
    ChoreBroke,
    DrainAsked,
    FileDeletionAsked,
    FileStored,
    IntakeEnded,
    PartWritten,
)
from raybatch.core.model import BatchStatus, ChunkState, File, LineError
from raybatch.core.policy import Policy
from tests.core.scene import ASKED, MODEL, Scene, part_of, slice_of


@pytest.fixture
def scene() -> Scene:
    return Scene()


def finish(scene: Scene, *, failed: int = 0, batch_id: str = "batch_1") -> None:
    leases = scene.report(wants_rows=10_000, window=10_000).leases
    slices = tuple(slice_of(lease, failed=failed) for lease in leases)
    assert set(scene.write(f"part_{batch_id}", *slices, batch_id=batch_id)) == {Verdict.ACCEPTED}


# -- asked for ---------------------------------------------------------------------------------------------


def test_a_batch_is_asked_for_validated_run_and_completed(scene: Scene) -> None:
    batch = scene.say(ASKED)
    assert (batch.status, batch.batch_id) == (BatchStatus.VALIDATING, "batch_1")
    assert scene.commands == [StartIntake("batch_1")]
    scene.say(IntakeEnded("batch_1", 20, MODEL, 200, ()))
    assert scene.batch().status is BatchStatus.IN_PROGRESS
    assert scene.commands == [WakeEngines(MODEL)]
    finish(scene)
    assert scene.batch().status is BatchStatus.COMPLETED
    assert scene.state.active == {}


def test_the_same_event_twice_makes_one_batch_and_does_not_start_it_over(scene: Scene) -> None:
    scene.accept(100)
    scene.report(wants_rows=16)
    assert scene.say(ASKED) == scene.batch()
    assert (scene.batch().cursor, scene.commands) == (16, [])


def test_an_idempotency_key_names_one_batch_of_its_tenant_for_good(scene: Scene) -> None:
    keyed = replace(ASKED, idempotency_key="k")
    scene.say(keyed)
    scene.wall += 10 * scene.policy.create_repeat_s
    assert scene.say(replace(keyed, batch_id="batch_2")).batch_id == "batch_1"
    assert scene.say(replace(keyed, batch_id="batch_3", tenant="other")).batch_id == "batch_3"
    assert scene.say(replace(keyed, batch_id="batch_4", idempotency_key="k2")).batch_id == "batch_4"


def test_a_client_that_says_it_tries_again_gets_its_first_batch_for_a_day(scene: Scene) -> None:
    scene.say(ASKED)
    again = replace(ASKED, batch_id="batch_2", is_retry=True)
    assert scene.say(again).batch_id == "batch_1"
    assert scene.say(replace(again, request_key="other")).batch_id == "batch_2"
    scene.wall += scene.policy.create_repeat_s
    assert scene.say(replace(again, batch_id="batch_3")).batch_id == "batch_3"
    assert scene.say(replace(ASKED, batch_id="batch_4")).batch_id == "batch_4"


@pytest.mark.parametrize("file_id", ["file_unknown", "file_foreign", "file_deleted", "file_output"])
def test_a_batch_over_a_file_that_cannot_be_read_fails_at_once(scene: Scene, file_id: str) -> None:
    file = File(file_id, "t", "batch", "f.jsonl", 1, 0.0)
    variants = {
        "file_foreign": replace(file, tenant="other"),
        "file_deleted": replace(file, deleted=True),
        "file_output": replace(file, batch_id="batch_0", part_kind="output"),
    }
    if file_id in variants:
        scene.say(FileStored("r", variants[file_id]))
    scene.say(replace(ASKED, input_file_id=file_id))
    assert scene.batch().status is BatchStatus.FAILED
    assert scene.batch().errors[0].message == f"No such File object: {file_id}"
    assert scene.commands == []


def test_faults_in_the_upload_fail_the_batch_and_a_second_verdict_is_ignored(scene: Scene) -> None:
    scene.say(ASKED)
    errors = (LineError("invalid_json", "not JSON", None, 3),)
    scene.say(IntakeEnded("batch_1", 0, None, 0, errors))
    failed = scene.batch()
    assert (failed.status, failed.errors) == (BatchStatus.FAILED, errors)
    scene.say(IntakeEnded("batch_1", 20, MODEL, 200, ()))
    assert scene.batch() == failed


def test_no_batch_is_taken_while_draining_but_a_repeated_one_is_answered(scene: Scene) -> None:
    scene.say(replace(ASKED, idempotency_key="k"))
    scene.say(DrainAsked("r", True))
    refusal = scene.say(replace(ASKED, batch_id="batch_2"))
    assert isinstance(refusal, Rejection)
    assert (refusal.kind, refusal.retry_after_s) == ("Unavailable", 30)
    assert scene.say(replace(ASKED, batch_id="batch_3", idempotency_key="k")).batch_id == "batch_1"


# -- ended -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failed", "kinds"), [(0, {"output"}), (20, {"error"}), (5, {"output", "error"})])
def test_only_files_with_rows_exist_at_the_end(scene: Scene, failed: int, kinds: set[str]) -> None:
    scene.accept(20)
    finish(scene, failed=failed)
    files = [file for file in scene.state.files.values() if file.batch_id == "batch_1"]
    assert {file.part_kind for file in files} == kinds
    sizes = {file.part_kind: file.size_bytes for file in files}
    assert sizes == {k: v for k, v in {"output": 10 * (20 - failed), "error": 10 * failed}.items() if v}
    assert all(file.tenant == "t" and file.purpose == "batch_output" for file in files)


def test_a_file_that_a_batch_needs_is_hidden_and_another_is_removed(scene: Scene) -> None:
    scene.say(FileStored("r", File("file_free", "t", "batch", "f.jsonl", 1, 0.0)))
    scene.accept(20)
    scene.say(FileDeletionAsked("r", "t", "file_in"))
    assert scene.state.files["file_in"].deleted
    assert scene.commands == []
    finish(scene)
    assert scene.batch().status is BatchStatus.COMPLETED
    scene.say(FileDeletionAsked("r", "t", "file_free"))
    assert "file_free" not in scene.state.files
    assert scene.commands == [RemoveBlob("file_free")]


@pytest.mark.parametrize("file_id", ["file_none", "file_foreign", "file_in"])
def test_a_file_that_is_unknown_foreign_or_deleted_cannot_be_deleted(scene: Scene, file_id: str) -> None:
    scene.say(FileStored("r", File("file_foreign", "other", "batch", "f.jsonl", 1, 0.0)))
    scene.accept(20)
    scene.say(FileDeletionAsked("r", "t", "file_in"))
    assert scene.say(FileDeletionAsked("r", "t", file_id)).message == f"No such File object: {file_id}"


def test_a_stored_file_told_again_does_not_bring_a_deleted_one_back(scene: Scene) -> None:
    scene.accept(20)
    stored = FileStored("r", scene.state.files["file_in"])
    scene.say(FileDeletionAsked("r", "t", "file_in"))
    scene.say(stored)
    assert scene.state.files["file_in"].deleted


# -- cancelled ---------------------------------------------------------------------------------------------


def test_a_batch_cancelled_while_validating_ends_without_rows_or_files(scene: Scene) -> None:
    scene.say(ASKED)
    assert scene.cancel().status is BatchStatus.CANCELLING
    scene.say(IntakeEnded("batch_1", 20, MODEL, 200, ()))
    scene.wait(1.0)
    ended = scene.batch()
    assert (ended.status, ended.total, ended.finished_rows) == (BatchStatus.CANCELLED, 0, 0)
    assert list(scene.state.files) == ["file_in"]


def test_a_cancelled_batch_waits_for_its_engines_and_closes_the_rest_with_error_rows(scene: Scene) -> None:
    scene.accept(100)
    (lease,) = scene.report(wants_rows=16).leases
    scene.write("p1", slice_of(lease, 0b111))
    scene.cancel()
    scene.wait(1.0)
    assert scene.commands == []  # e1 still has rows
    assert scene.report(held=(lease,), wants_rows=50).dropped == (lease.chunk_id,)
    scene.write("p2", slice_of(lease, 0b11000))  # finished before it heard of the cancel
    assert scene.report(held=(), wants_rows=50).leases == ()
    scene.wait(1.0)
    (closing,) = scene.commands
    assert isinstance(closing, StartClosing)
    rest = tuple(slice_of(one, failed=one.rows.bit_count()) for one in closing.leases)
    assert sum(piece.rows.bit_count() for piece in rest) == 95
    scene.say(PartWritten("r", "closing", "batch_1", part_of("p3", *rest), rest))
    ended = scene.batch()
    assert ended.status is BatchStatus.CANCELLED
    assert (ended.tally.completed, ended.tally.failed) == (5, 95)
    assert scene.state.files["file_out1"].size_bytes == 50
    assert scene.state.files["file_err1"].size_bytes == 950
    assert scene.state.chores == {}


def test_rows_that_engines_finish_end_a_cancelling_batch_without_a_closing(scene: Scene) -> None:
    scene.accept(16)
    (lease,) = scene.report(wants_rows=16).leases
    scene.cancel()
    scene.write("p1", slice_of(lease))
    assert (scene.batch().status, scene.batch().tally.completed) == (BatchStatus.CANCELLED, 16)


def test_cancelling_again_answers_the_batch_and_an_ended_one_refuses(scene: Scene) -> None:
    scene.accept(16)
    first = scene.cancel()
    assert scene.cancel() == first
    scene.wait(1.0)
    scene.accept(16, "batch_2")
    finish(scene, batch_id="batch_2")
    refusal = scene.cancel("batch_2")
    assert (refusal.kind, refusal.message) == ("Conflict", "Cannot cancel a batch with status 'completed'.")
    assert scene.cancel("batch_none").kind == "NotFound"


def test_another_tenants_batch_answers_like_an_unknown_one(scene: Scene) -> None:
    scene.say(ASKED)
    scene.state.batches["batch_1"] = replace(scene.batch(), tenant="other")
    assert scene.cancel() == Rejection("NotFound", "No batch found with id 'batch_1'.")


# -- chores ------------------------------------------------------------------------------------------------


def test_an_intake_that_breaks_or_is_not_heard_of_is_started_again(scene: Scene) -> None:
    scene.say(ASKED)
    scene.wait(1.0)
    assert scene.commands == []
    scene.say(ChoreBroke("intake:batch_1", "killed"))
    scene.wait(1.0)
    assert scene.commands == [StartIntake("batch_1")]
    scene.wait(scene.policy.chore_s)
    assert scene.commands == [StartIntake("batch_1")]


def test_a_closing_that_breaks_gives_its_rows_to_the_next_one_under_new_tokens(scene: Scene) -> None:
    scene.accept(5_000)
    scene.cancel()
    scene.wait(1.0)
    (first,) = scene.commands
    assert isinstance(first, StartClosing)
    scene.wait(1.0)
    assert scene.commands == []
    scene.say(ChoreBroke("closing:batch_1", "killed"))
    scene.wait(1.0)
    (second,) = scene.commands
    assert isinstance(second, StartClosing)
    assert [lease.first for lease in second.leases] == [lease.first for lease in first.leases] == [0, 4096]
    assert min(lease.token for lease in second.leases) > max(lease.token for lease in first.leases)
    late = slice_of(first.leases[0], failed=4096)
    assert scene.write("late", late) == (Verdict.STALE,)


def test_a_restart_takes_back_the_leases_of_closings_and_of_nobody_else(scene: Scene) -> None:
    scene.accept(100, "batch_1")
    (lease,) = scene.report(wants_rows=16).leases
    scene.accept(100, "batch_2")
    scene.cancel("batch_2")
    scene.wait(1.0)
    for change in recover(scene.state).changes:
        scene.state.apply(change)
    states = {chunk.batch_id: chunk.state for chunk in scene.state.chunks.values()}
    assert states == {"batch_1": ChunkState.LEASED, "batch_2": ChunkState.AVAILABLE}
    assert scene.state.chunks[lease.chunk_id].token == lease.token


def test_two_cancelled_batches_are_closed_one_tick_after_the_other(scene: Scene) -> None:
    for batch_id in ("batch_1", "batch_2"):
        scene.accept(100, batch_id)
        scene.cancel(batch_id)
    closed = []
    for _ in range(2):
        scene.wait(1.0)
        closed += [command.batch_id for command in scene.commands if isinstance(command, StartClosing)]
    assert closed == ["batch_1", "batch_2"]


def test_parts_of_the_lowest_full_level_are_compacted_once_at_a_time() -> None:
    scene = Scene(Policy(compaction_fan_in=3))
    scene.accept(100)
    (lease,) = scene.report(wants_rows=16).leases
    for number in range(3):
        scene.write(f"p{number}", slice_of(lease, 1 << number))
    scene.wait(1.0)
    (command,) = scene.commands
    assert isinstance(command, StartCompaction)
    assert [part.part_id for part in command.parts] == ["p0", "p1", "p2"]
    scene.wait(1.0)
    assert scene.commands == []
