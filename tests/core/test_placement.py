"""Which model a slot is told to serve: no swap without need, and no model waits for ever."""

from __future__ import annotations

from typing import Any

import pytest

from raybatch.core.commands import Lease
from raybatch.core.events import EnginePhase
from raybatch.core.policy import Policy
from tests.core.scene import Scene, slice_of

IDLE, LOADING, READY = EnginePhase.IDLE, EnginePhase.LOADING, EnginePhase.READY
TURN_S = 100.0


@pytest.fixture
def scene() -> Scene:
    return Scene(Policy(turn_s=TURN_S, turn_loads_min=10.0, model_retry_s=300.0))


def told(
    scene: Scene, engine_id: str = "slot", model: str | None = None, phase: EnginePhase = READY, **more: Any
) -> str | None:
    """The model a slot is told to serve."""
    return scene.report(engine_id, slot=True, model=model, phase=phase, **more).model


def rows_of(scene: Scene, model: str, **more: Any) -> tuple[Lease, ...]:
    """Leases of a slot that serves ``model``."""
    orders = scene.report("slot", slot=True, model=model, **more)
    assert orders.model is None
    return orders.leases


# -- a slot alone ------------------------------------------------------------------------------------------


def test_a_slot_without_a_model_takes_the_oldest_batchs_and_a_dedicated_engine_is_never_told(
    scene: Scene,
) -> None:
    assert told(scene, phase=IDLE) is None
    scene.accept(50, "batch_1", model="a")
    scene.accept(50, "batch_2", model="b")
    assert told(scene, phase=IDLE) == "a"
    assert scene.report("e1", model="c").model is None


def test_a_slot_that_loads_or_leaves_is_told_nothing(scene: Scene) -> None:
    scene.accept(50, model="a")
    for phase in (LOADING, EnginePhase.DRAINING):
        assert told(scene, model="b", phase=phase) is None


def test_no_swap_while_the_model_has_work_and_its_turn_is_not_over(scene: Scene) -> None:
    scene.accept(10_000, "batch_1", model="a")
    scene.accept(50, "batch_2", model="b")
    assert rows_of(scene, "a", wants_rows=16, ready_s=TURN_S - 1.0)
    orders = scene.report("slot", slot=True, model="a", wants_rows=16, ready_s=TURN_S)
    assert (orders.model, orders.leases) == ("b", ())


def test_a_model_that_takes_long_to_load_has_a_longer_turn(scene: Scene) -> None:
    scene.accept(10_000, "batch_1", model="a")
    scene.accept(50, "batch_2", model="b")
    assert told(scene, model="a", load_s=50.0, ready_s=499.0) is None
    assert told(scene, model="a", load_s=50.0, ready_s=500.0) == "b"


def test_a_model_that_nobody_else_waits_for_keeps_its_slot_for_good(scene: Scene) -> None:
    scene.accept(10_000, model="a")
    assert told(scene, model="a", ready_s=1e9) is None
    scene.accept(50, "batch_2", model="b", priority=-1)
    assert told(scene, model="a", ready_s=1e9) is None  # less urgent ones wait for its end


def test_an_idle_slot_swaps_at_once_and_not_before_its_last_rows_are_committed(scene: Scene) -> None:
    scene.accept(16, "batch_1", model="a")
    scene.accept(50, "batch_2", model="b")
    held = rows_of(scene, "a", wants_rows=16)
    assert told(scene, model="a", held=held, ready_s=1e9) is None
    scene.write("p1", *(slice_of(lease) for lease in held))
    assert told(scene, model="a") == "b"


def test_a_higher_priority_does_not_wait_for_the_turn_to_end(scene: Scene) -> None:
    scene.accept(10_000, "batch_1", model="a")
    held = rows_of(scene, "a", wants_rows=16)
    scene.accept(50, "batch_2", model="b", priority=5)
    assert told(scene, model="a", held=held, ready_s=0.0) == "b"


def test_a_batch_paused_while_its_model_serves_frees_the_slot(scene: Scene) -> None:
    scene.accept(10_000, "batch_1", model="a")
    scene.accept(50, "batch_2", model="b")
    held = rows_of(scene, "a", wants_rows=16)
    scene.pause("batch_1")
    assert told(scene, model="a", held=held) is None
    assert told(scene, model="a", held=()) == "b"
    scene.pause("batch_2")
    assert told(scene, model="a", held=()) is None


def test_the_least_recently_served_goes_first(scene: Scene) -> None:
    for number, model in enumerate("abc"):
        scene.accept(10_000, f"batch_{number}", model=model)
    served, model = [], "a"
    for _ in range(7):
        served.append(model)
        scene.mono += TURN_S
        assert told(scene, model=model, ready_s=TURN_S - 1.0) is None
        scene.mono += 1.0
        following = told(scene, model=model, ready_s=TURN_S)
        assert following is not None
        model = following
    assert served == list("abcabca")


def test_born_again_a_slot_is_told_the_same_as_before_its_end(scene: Scene) -> None:
    for number, model in enumerate("abc"):
        scene.accept(10_000, f"batch_{number}", model=model)
    assert told(scene, model="a", ready_s=TURN_S) == "b"
    assert told(scene, model="a", phase=EnginePhase.STOPPED) in {"b", "c", None}
    assert told(scene, phase=IDLE, incarnation=2.0) == "b"


# -- models that cannot be loaded --------------------------------------------------------------------------


def test_a_model_that_cannot_be_loaded_is_left_alone_for_a_while(scene: Scene) -> None:
    scene.accept(50, "batch_1", model="broken")
    scene.accept(50, "batch_2", model="b")
    assert told(scene, phase=IDLE) == "broken"
    assert told(scene, model="broken", phase=EnginePhase.FAILED, error="no such repository") == "b"
    assert told(scene, phase=IDLE, incarnation=2.0) == "b"
    scene.finish(batch_id="batch_2", engine_id="dedicated")
    scene.wait(61.0)  # the dedicated engine is lost, so that only the fault keeps the slot away
    assert told(scene, phase=IDLE, incarnation=2.0) is None
    scene.wait(240.0)
    assert told(scene, phase=IDLE, incarnation=2.0) == "broken"


def test_a_load_that_works_clears_the_fault(scene: Scene) -> None:
    scene.accept(50, model="a")
    told(scene, model="a", phase=EnginePhase.FAILED, error="hub unreachable")
    assert "a" in scene.state.model_faults
    told(scene, model="a", phase=READY)
    assert scene.state.model_faults == {}


# -- two slots ---------------------------------------------------------------------------------------------


def test_two_slots_do_not_take_the_same_model(scene: Scene) -> None:
    scene.accept(10_000, "batch_1", model="a")
    scene.accept(10_000, "batch_2", model="b")
    for phase in (LOADING, READY, EnginePhase.DRAINING):
        scene.report("slot1", slot=True, model="a", phase=phase)
        assert told(scene, "slot2", phase=IDLE) == "b"
    scene.pause("batch_2")
    assert told(scene, "slot2", phase=IDLE) is None
    scene.report("slot1", slot=True, model="a", phase=EnginePhase.STOPPED)
    assert told(scene, "slot2", phase=IDLE) == "a"
    scene.report("slot1", slot=True, model="a", incarnation=2.0, phase=READY)
    scene.wait(scene.policy.engine_silent_s + 1.0)
    assert told(scene, "slot2", phase=IDLE) == "a"  # slot1 is lost


def test_a_model_in_two_slots_has_its_turn_and_no_more(scene: Scene) -> None:
    """Were its own backlog overlooked because the other slot serves it, it would never be relieved."""
    scene.accept(10_000, "batch_1", model="a")
    scene.accept(10_000, "batch_2", model="b")
    scene.report("slot1", slot=True, model="a")
    held = rows_of(scene, "a", wants_rows=16)
    assert told(scene, model="a", held=held, ready_s=TURN_S - 1.0) is None
    assert told(scene, model="a", held=held, ready_s=TURN_S) == "b"
