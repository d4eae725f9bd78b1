"""Deadlines: what counts towards the completion window, and how a batch ends that has outlived it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from raybatch.core.changes import AllPaused
from raybatch.core.commands import Rejection, StartClosing, Verdict, WakeEngines
from raybatch.core.deadline import JUMP_MIN_S
from raybatch.core.events import IntakeEnded, Tick
from raybatch.core.model import Batch, BatchStatus, RowSpan
from raybatch.core.policy import Policy
from tests.core.scene import ASKED, MODEL, Scene, slice_of

DAY_S = 86_400.0
OVER_S = DAY_S + JUMP_MIN_S  #: a day is over, however the clocks are rounded


@pytest.fixture
def scene() -> Scene:
    return Scene(Policy(expire_unfinished=True))


def pass_time(scene: Scene, seconds: float) -> None:
    """On both clocks, as it does."""
    scene.wall += seconds - 1.0  # whatever is said takes one, too
    scene.mono += seconds
    scene.say(Tick())


def close(scene: Scene, batch_id: str = "batch_1") -> StartClosing:
    """The chore writes every row it was given."""
    scene.wait(0.0)
    (closing,) = (command for command in scene.commands if isinstance(command, StartClosing))
    slices = (slice_of(lease, failed=lease.rows.bit_count()) for lease in closing.leases)
    scene.write(f"closing_{batch_id}_{scene.batch(batch_id).round}", *slices, batch_id=batch_id)
    return closing


# -- how it ends -------------------------------------------------------------------------------------------


def test_finished_rows_are_kept_and_the_rest_become_error_rows() -> None:
    week_s = 7 * DAY_S
    scene = Scene(Policy(expire_unfinished=True, lease_s=week_s, engine_silent_s=week_s))
    scene.accept(100)
    first, second = (scene.report(f"e{n}", wants_rows=16).leases[0] for n in (1, 2))
    scene.write("p1", slice_of(first, failed=1))
    pass_time(scene, OVER_S)
    assert scene.commands == [WakeEngines(MODEL)]
    expiring = scene.batch()
    assert (expiring.status, expiring.finalizing_at) == (BatchStatus.FINALIZING, scene.wall)
    orders = scene.report("e2", held=(second,), wants_rows=16)
    assert (orders.dropped, orders.leases) == ((second.chunk_id,), ())
    assert scene.write("p2", slice_of(second, 0b11)) == (
        Verdict.ACCEPTED,
    )  # had run when the engine heard of it
    scene.report("e2")
    closing = close(scene)
    assert closing.code == "batch_expired"
    ended = scene.batch()
    assert (ended.status, ended.expired_at, ended.completed_at) == (BatchStatus.EXPIRED, scene.wall, None)
    assert (ended.tally.completed, ended.tally.failed, ended.total) == (17, 83, 100)
    assert (scene.state.files["file_out1"].size_bytes, scene.state.files["file_err1"].size_bytes) == (
        170,
        830,
    )
    assert [entry.kind for entry in scene.log()][-3:] == ["expiring", "released", "ended"]


@pytest.mark.parametrize("how", ["batch_expired", "batch_cancelled"])
def test_an_engine_that_never_lets_go_holds_the_end_up_for_one_lease_at_most(scene: Scene, how: str) -> None:
    """OpenAI allows what is in flight ten minutes."""
    assert scene.policy.lease_s <= 600.0
    scene.accept(20)
    pass_time(scene, DAY_S - JUMP_MIN_S)
    leases = scene.report(wants_rows=40).leases
    if how == "batch_cancelled":
        scene.cancel()
    ending_mono = None
    for _ in range(200):
        scene.mono += 1.0
        assert scene.report(held=leases, wants_rows=40).leases == ()
        scene.wait(0.0)
        if ending_mono is None and scene.batch().status is not BatchStatus.IN_PROGRESS:
            ending_mono = scene.mono
        if any(isinstance(command, StartClosing) for command in scene.commands):
            break
    assert ending_mono is not None
    assert scene.mono - ending_mono <= scene.policy.lease_s + 2.0
    (closing,) = (command for command in scene.commands if isinstance(command, StartClosing))
    assert (closing.code, closing.leases[0].rows) == (how, leases[0].rows)
    assert scene.write("late", slice_of(leases[0])) == (Verdict.STALE,)


def test_a_batch_that_validates_at_its_deadline_is_taken_in_first(scene: Scene) -> None:
    scene.say(ASKED)
    pass_time(scene, 2 * DAY_S)
    assert scene.batch().status is BatchStatus.VALIDATING
    scene.say(IntakeEnded("batch_1", 20, MODEL, 200, ()))
    assert scene.report(wants_rows=0).leases == ()
    scene.wait(0.0)
    close(scene)
    ended = scene.batch()
    assert (ended.status, ended.tally.failed) == (BatchStatus.EXPIRED, 20)
    assert "file_out" not in scene.state.files


def test_the_window_is_a_target_unless_the_operator_says_otherwise() -> None:
    scene = Scene()
    scene.accept(20)
    pass_time(scene, 10 * DAY_S)
    assert scene.report(wants_rows=20).leases
    scene.wait(scene.policy.lease_s + 1.0)
    scene.finish()
    assert scene.batch().status is BatchStatus.COMPLETED


def test_an_expiring_batch_cannot_be_cancelled_and_goes_on_expiring_after_a_restart(scene: Scene) -> None:
    scene.accept(20)
    pass_time(scene, OVER_S)
    refused = scene.cancel()
    assert isinstance(refused, Rejection)
    assert (refused.kind, refused.message) == ("Conflict", "Cannot cancel a batch with status 'finalizing'.")
    scene.restart()
    close(scene)
    assert scene.batch().status is BatchStatus.EXPIRED


def test_a_retry_opens_an_expired_batch_with_a_whole_window(scene: Scene) -> None:
    scene.accept(20)
    pass_time(scene, OVER_S)
    close(scene)
    pass_time(scene, 3 * DAY_S)
    reopened = scene.retry(RowSpan(0, (1 << 20) - 1, 1))
    assert isinstance(reopened, Batch)
    assert (reopened.status, reopened.expired_at) == (BatchStatus.IN_PROGRESS, None)
    assert reopened.expires_at == scene.wall + DAY_S
    assert reopened == scene.batch()
    pass_time(scene, DAY_S - JUMP_MIN_S)
    scene.finish()
    assert scene.batch().status is BatchStatus.COMPLETED


# -- what counts -------------------------------------------------------------------------------------------


def test_time_in_a_pause_moves_the_deadline(scene: Scene) -> None:
    scene.accept(20)
    before = scene.batch().expires_at
    scene.pause()
    pass_time(scene, 5 * DAY_S)
    assert scene.batch().status is BatchStatus.IN_PROGRESS
    assert scene.pause(on=False).expires_at == pytest.approx(before + 5 * DAY_S, abs=5.0)
    pass_time(scene, DAY_S - JUMP_MIN_S)
    assert scene.batch().status is BatchStatus.IN_PROGRESS
    pass_time(scene, 2 * JUMP_MIN_S)
    assert scene.batch().status is BatchStatus.FINALIZING


@pytest.mark.parametrize(
    "moves",
    [
        ("all on", "all off"),
        ("on", "all on", "off", "all off"),
        ("on", "all on", "all off", "off"),
        ("all on", "on", "off", "all off"),
        ("all on", "on", "all off", "off"),
    ],
    ids=", ".join,
)
def test_a_pause_of_everything_counts_as_one_of_each_batch_and_no_time_counts_twice(
    scene: Scene, moves: tuple[str, ...]
) -> None:
    scene.accept(20)
    before = scene.batch().expires_at
    for number, move in enumerate(moves):
        if number:
            pass_time(scene, DAY_S)
        scene.pause(None if move.startswith("all") else "batch_1", on=move.endswith("on"))
        if number == 1:
            scene.restart()
    held_s = (len(moves) - 1) * DAY_S
    assert scene.batch().expires_at - before == pytest.approx(held_s, abs=10.0)
    assert scene.batch().status is BatchStatus.IN_PROGRESS


def test_a_pause_of_everything_counts_from_a_batchs_own_beginning(scene: Scene) -> None:
    scene.accept(20, "batch_1")
    pass_time(scene, OVER_S)
    close(scene)
    scene.pause(None)
    pass_time(scene, 3 * DAY_S)
    scene.accept(20, "batch_2")
    scene.retry(RowSpan(0, 1, 1))
    pass_time(scene, DAY_S)
    scene.pause(None, on=False)
    for batch_id in ("batch_1", "batch_2"):
        assert scene.batch(batch_id).expires_at == pytest.approx(scene.wall + DAY_S, abs=10.0)


def test_what_an_older_version_paused_it_did_not_say_when_is_given_a_whole_window(scene: Scene) -> None:
    scene.accept(20)
    scene.state.apply(AllPaused(True))
    pass_time(scene, 5 * DAY_S)
    scene.pause(None, on=False)
    assert scene.batch().expires_at == pytest.approx(scene.wall + DAY_S, abs=5.0)


# -- clocks ------------------------------------------------------------------------------------------------


def jump(scene: Scene, by_s: float) -> None:
    scene.wall += by_s
    scene.wait(0.0)


def freeze(scene: Scene, seconds: float) -> None:
    """The wall clock stands still."""
    for _ in range(10):
        scene.wall -= 1.0
        scene.mono += seconds / 10
        scene.say(Tick())


@pytest.mark.parametrize(
    "fault",
    [
        lambda scene: jump(scene, 2 * 3600.0),
        lambda scene: jump(scene, -2 * 3600.0),
        lambda scene: jump(scene, 50 * 365 * DAY_S),
        lambda scene: (jump(scene, 50 * DAY_S), jump(scene, -50 * DAY_S)),
        lambda scene: (scene.pause(), jump(scene, 50 * DAY_S), scene.pause(on=False)),
        lambda scene: (scene.pause(), jump(scene, -DAY_S), scene.pause(on=False)),
        lambda scene: (scene.pause(None), jump(scene, -DAY_S), scene.pause(None, on=False)),
        lambda scene: (jump(scene, 50 * DAY_S), scene.pause(), scene.pause(on=False)),
        lambda scene: (jump(scene, 50 * DAY_S), scene.restart(), scene.wait(0.0)),
        lambda scene: (
            jump(scene, -DAY_S),
            scene.say(replace(ASKED, batch_id="batch_2")),
            jump(scene, DAY_S),
        ),
    ],
    ids=[
        "ahead",
        "back",
        "far",
        "far and back",
        "in a pause",
        "back in a pause",
        "while all is paused",
        "before a pause",
        "then a restart",
        "twice",
    ],
)
def test_a_batch_has_its_whole_window_whatever_the_wall_clock_does(
    scene: Scene, fault: Callable[[Scene], object]
) -> None:
    scene.accept(20)
    pass_time(scene, DAY_S / 2)
    fault(scene)
    assert scene.batch().expires_at == pytest.approx(scene.wall + DAY_S / 2, abs=JUMP_MIN_S)
    pass_time(scene, DAY_S / 2 - JUMP_MIN_S)
    assert scene.batch().status is BatchStatus.IN_PROGRESS
    pass_time(scene, 2 * JUMP_MIN_S)
    assert scene.batch().status is BatchStatus.FINALIZING


def test_a_frozen_wall_clock_stops_no_deadline(scene: Scene) -> None:
    scene.accept(20)
    freeze(scene, DAY_S - JUMP_MIN_S)
    assert scene.batch().status is BatchStatus.IN_PROGRESS
    freeze(scene, 2 * JUMP_MIN_S)
    assert scene.batch().status is BatchStatus.FINALIZING


def test_a_batch_asked_for_right_after_a_jump_has_its_window_from_there(scene: Scene) -> None:
    """Whatever event is the first to see the clock as it is now."""
    for by_s in (DAY_S, -2 * DAY_S):
        scene.wall += by_s
        batch_id = f"batch_{by_s:.0f}"
        scene.say(replace(ASKED, batch_id=batch_id, request_key=batch_id))
        assert scene.batch(batch_id).expires_at == scene.wall + DAY_S


def test_from_one_process_to_the_next_the_wall_clock_counts(scene: Scene) -> None:
    scene.accept(20)
    scene.restart()
    scene.wall += DAY_S
    scene.mono = 0.0
    scene.wait(0.0)
    assert scene.batch().status is BatchStatus.FINALIZING
