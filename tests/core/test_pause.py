"""Paused, quiet, draining: who gets no rows, what is given back, and how it goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raybatch.core.commands import Lease, StartClosing, WakeEngines
from raybatch.core.events import DrainAsked, EnginePhase, IntakeEnded, QuietMode
from raybatch.core.fitness import Fitness, GpuVerdict
from raybatch.core.model import BatchStatus, ChunkState, LineError
from raybatch.core.policy import Policy
from tests.core.scene import ASKED, MODEL, Scene, slice_of


@pytest.fixture
def scene() -> Scene:
    scene = Scene(Policy(gentle_share=0.25))
    scene.accept(1_000)
    return scene


@pytest.fixture
def lease(scene: Scene) -> Lease:
    (lease,) = scene.report(wants_rows=16).leases
    return lease


# -- one batch ---------------------------------------------------------------------------------------------


def test_a_paused_batch_is_given_back_and_not_leased_while_another_goes_on(
    scene: Scene, lease: Lease
) -> None:
    scene.accept(1_000, "batch_2")
    assert scene.pause().paused_at is not None
    assert scene.commands == [WakeEngines(MODEL)]
    (other,) = (orders := scene.report(held=(lease,), wants_rows=16)).leases
    assert (orders.give_back, orders.dropped, other.batch_id) == ((lease.chunk_id,), (), "batch_2")
    assert scene.report(held=(lease, other)).give_back == (lease.chunk_id,)
    scene.write("p1", slice_of(lease, 0b11))  # what was running is finished and counts
    scene.report(held=(other,))
    assert scene.state.chunks[lease.chunk_id].state is ChunkState.AVAILABLE
    assert scene.batch().tally.completed == 2
    resumed = scene.pause(on=False)
    assert (resumed.paused_at, scene.commands) == (None, [WakeEngines(MODEL)])
    assert {one.batch_id for one in scene.report(held=(other,), wants_rows=64).leases} >= {"batch_1"}
    assert scene.report(held=(other,)).give_back == ()


def test_pausing_and_resuming_again_changes_nothing_more(scene: Scene) -> None:
    paused = scene.pause()
    assert (scene.pause(), scene.commands) == (paused, [])
    scene.pause(on=False)
    resumed = scene.batch()
    assert (scene.pause(on=False), scene.commands) == (resumed, [])
    assert resumed.paused_s == scene.log()[-1].at - (paused.paused_at or 0.0)


def test_time_in_every_pause_adds_up(scene: Scene) -> None:
    for pause_s, sum_s in ((10.0, 11.0), (4.0, 16.0)):
        scene.pause()
        scene.wall += pause_s
        scene.pause(on=False)
        assert scene.batch().paused_s == sum_s


def test_a_paused_batch_can_be_validated_failed_and_cancelled(scene: Scene) -> None:
    for number in (2, 3):
        scene.say(replace(ASKED, batch_id=f"batch_{number}", request_key=str(number)))
        scene.pause(f"batch_{number}")
    scene.say(IntakeEnded("batch_2", 20, MODEL, 200, ()))
    taken_in = scene.batch("batch_2")
    assert (taken_in.status, taken_in.paused_at is None) == (BatchStatus.IN_PROGRESS, False)
    scene.say(IntakeEnded("batch_3", 0, None, 0, (LineError("invalid_json", "no", None, 1),)))
    assert (scene.batch("batch_3").status, scene.batch("batch_3").paused_at) == (BatchStatus.FAILED, None)
    scene.cancel("batch_2")
    scene.wait(1.0)
    (closing,) = scene.commands
    assert isinstance(closing, StartClosing)
    scene.write(
        "p", *(slice_of(one, failed=one.rows.bit_count()) for one in closing.leases), batch_id="batch_2"
    )
    assert (scene.batch("batch_2").status, scene.batch("batch_2").paused_at) == (BatchStatus.CANCELLED, None)


def test_rows_that_run_may_end_a_paused_batch_and_an_ended_one_cannot_be_paused(scene: Scene) -> None:
    scene.accept(16, "batch_2", priority=1)
    (lease,) = scene.report(wants_rows=16).leases
    scene.pause("batch_2")
    scene.write("p", slice_of(lease), batch_id="batch_2")
    ended = scene.batch("batch_2")
    assert (ended.status, ended.paused_at) == (BatchStatus.COMPLETED, None)
    refused = scene.pause("batch_2")
    assert (refused.kind, refused.message) == ("Conflict", "Cannot pause a batch with status 'completed'.")
    assert scene.pause("batch_2", on=False) == ended
    assert scene.pause("batch_9").kind == "NotFound"


# -- everything --------------------------------------------------------------------------------------------


def test_a_pause_of_everything_holds_for_what_comes_later_and_over_a_restart(
    scene: Scene, lease: Lease
) -> None:
    assert scene.pause(None) is True
    assert scene.commands == [WakeEngines(MODEL)]
    scene.restart()
    scene.accept(50, "batch_2")
    orders = scene.report(held=(lease,), wants_rows=50)
    assert (orders.leases, orders.give_back, orders.drain) == ((), (lease.chunk_id,), False)
    assert scene.pause(None, on=False) is False
    assert scene.commands == [WakeEngines(MODEL)]
    assert scene.report(held=(lease,), wants_rows=50).leases
    scene.restart()
    assert scene.report(held=(lease,), wants_rows=50, seq=99).give_back == ()


def test_resuming_everything_leaves_a_batch_paused_that_was_paused_by_itself(scene: Scene) -> None:
    scene.pause()
    scene.pause(None)
    scene.pause(None, on=False)
    assert scene.report(wants_rows=16).leases == ()
    scene.pause(on=False)
    assert scene.report(wants_rows=16).leases


def test_a_cancel_goes_through_while_everything_is_paused(scene: Scene, lease: Lease) -> None:
    scene.pause(None)
    scene.cancel()
    assert scene.report(held=(lease,)).dropped == (lease.chunk_id,)
    scene.report(held=())
    scene.wait(1.0)
    assert any(isinstance(command, StartClosing) for command in scene.commands)


def test_draining_ends_with_the_process_and_a_pause_does_not(scene: Scene, lease: Lease) -> None:
    scene.say(DrainAsked("r", True))
    orders = scene.report(held=(lease,), wants_rows=16)
    assert (orders.drain, orders.leases, orders.give_back) == (True, (), (lease.chunk_id,))
    scene.restart()
    orders = scene.report(held=(lease,), wants_rows=16)
    assert (orders.drain, bool(orders.leases), orders.give_back) == (False, True, ())


# -- quiet hours -------------------------------------------------------------------------------------------


def test_quiet_hours_pause_like_an_operator_and_end_by_themselves(scene: Scene, lease: Lease) -> None:
    scene.look_around(quiet=QuietMode.PAUSE)
    orders = scene.report(held=(lease,), wants_rows=16)
    assert (orders.leases, orders.give_back, orders.drain) == ((), (lease.chunk_id,), False)
    scene.look_around(quiet=None)
    assert scene.report(held=(lease,), wants_rows=16).leases


def test_gentle_quiet_hours_leave_a_share_of_the_window(scene: Scene, lease: Lease) -> None:
    scene.look_around(quiet=QuietMode.GENTLE)
    orders = scene.report(held=(lease,), wants_rows=16)
    assert (orders.window_share, orders.give_back, bool(orders.leases)) == (0.25, (), True)
    scene.look_around(quiet=None)
    assert scene.report(held=(lease,)).window_share == 1.0


def test_no_slot_swaps_its_model_while_nobody_gets_a_row(scene: Scene) -> None:
    """A night of swaps without a row would be all noise and no work."""

    def order() -> str | None:
        return scene.report("slot", slot=True, phase=EnginePhase.IDLE, model=None).model

    assert order() == MODEL
    for quiet, model in ((QuietMode.PAUSE, None), (QuietMode.GENTLE, MODEL), (None, MODEL)):
        scene.look_around(quiet=quiet)
        assert order() == model
    scene.pause(None)
    assert order() is None
    scene.pause(None, on=False)
    scene.say(DrainAsked("r", True))
    assert order() is None


# -- restarts ----------------------------------------------------------------------------------------------


def test_an_engine_that_stopped_on_purpose_is_not_held_back_and_one_that_died_is() -> None:
    scene = Scene(Policy(restarts_free=1))
    assert scene.report(incarnation=1.0).hold_s == 0.0
    for birth in (2.0, 3.0, 4.0):
        scene.report(incarnation=birth - 1.0, phase=EnginePhase.STOPPED)
        assert scene.report(incarnation=birth, phase=EnginePhase.LOADING).hold_s == 0.0
    scene.report(incarnation=4.0, phase=EnginePhase.DIED, error="gone")
    assert scene.report(incarnation=5.0, phase=EnginePhase.LOADING).hold_s == 1.0


def test_odd_reports_are_answered(scene: Scene, lease: Lease) -> None:
    """What no engine of ours says, but a bug could."""
    ghost = Lease(77, 99, "batch_9", "file_9", "/v1", 0, 5, 0b11111, 1)
    unfit = GpuVerdict(Fitness.UNFIT, 0.0, ())
    for phase in EnginePhase:
        for model in (None, MODEL, "unheard of"):
            for slot in (False, True):
                orders = scene.report(
                    held=(lease, ghost, ghost),
                    wants_rows=-5,
                    window=-1,
                    phase=phase,
                    model=model,
                    slot=slot,
                    ready_s=-1.0,
                    load_s=float("nan"),
                    verdict=unfit,
                )
                assert (orders.dropped, orders.leases) == ((77,), ())
                scene.report("e2", wants_rows=5, phase=phase, model=model, slot=slot)
                scene.report("e2", held=())
