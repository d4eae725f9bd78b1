"""What an engine hears: what it holds is renewed, what it does not hold is free, the rest is dropped."""

from __future__ import annotations

import pytest

from raybatch.core.commands import EngineOrders, Verdict
from raybatch.core.model import ChunkState
from raybatch.core.policy import Policy
from raybatch.core.state import State
from tests.core.scene import Scene, slice_of


@pytest.fixture
def scene() -> Scene:
    scene = Scene(Policy(restarts_free=2, restart_window_s=100.0, restart_hold_max_s=3.0))
    scene.accept(1_000)
    return scene


def test_a_lease_whose_reply_was_lost_is_free_again(scene: Scene) -> None:
    (lost,) = scene.report(wants_rows=16).leases
    (again,) = scene.report(held=(), wants_rows=16).leases
    assert (again.chunk_id, again.attempt) == (lost.chunk_id, 2)
    assert again.token > lost.token


def test_a_report_from_the_past_changes_nothing(scene: Scene) -> None:
    (lease,) = scene.report(wants_rows=16, seq=5).leases
    for seq in (5, 4):
        assert scene.report(held=(), wants_rows=16, seq=seq) == EngineOrders(stay_idle=True)
    assert scene.state.chunks[lease.chunk_id].state is ChunkState.LEASED
    assert scene.report(held=(lease,), seq=6).dropped == ()


def test_a_lease_that_is_not_the_engines_is_dropped(scene: Scene) -> None:
    (lease,) = scene.report("e1", wants_rows=16).leases
    assert scene.report("e2", held=(lease,)).dropped == (lease.chunk_id,)
    scene.report("e1", held=())
    (newer,) = scene.report("e1", wants_rows=16).leases
    orders = scene.report("e1", held=(lease,), wants_rows=16)
    assert orders.dropped == (lease.chunk_id,)
    assert newer.token not in {chunk.token for chunk in scene.state.chunks.values()}


def test_a_later_birth_takes_the_leases_and_silences_the_earlier(scene: Scene) -> None:
    (lease,) = scene.report(wants_rows=16, incarnation=1.0).leases
    (again,) = scene.report(wants_rows=16, incarnation=2.0, seq=1).leases
    assert again.chunk_id == lease.chunk_id
    assert scene.report(held=(lease,), incarnation=1.0, seq=99) == EngineOrders(superseded=True)
    assert scene.write("p1", slice_of(lease)) == (Verdict.STALE,)
    assert scene.report(held=(again,), incarnation=2.0, seq=2).dropped == ()


def test_an_engine_on_another_machine_is_believed_once_the_one_before_is_lost(scene: Scene) -> None:
    (lease,) = scene.report(wants_rows=16, incarnation=9.0).leases
    assert scene.report(wants_rows=16, incarnation=1.0, seq=1) == EngineOrders(superseded=True)
    scene.wait(scene.policy.engine_silent_s + 1.0)
    (again,) = scene.report(wants_rows=16, incarnation=1.0, seq=2).leases
    assert again.chunk_id == lease.chunk_id
    assert again.token > lease.token


def test_an_engine_that_is_born_too_often_waits_longer_each_time(scene: Scene) -> None:
    holds = [scene.report(incarnation=float(birth), seq=1).hold_s for birth in range(1, 7)]
    assert holds == [0.0, 0.0, 1.0, 2.0, 3.0, 3.0]
    assert scene.report(incarnation=6.0, seq=2).hold_s == 0.0
    scene.wait(101.0)
    assert scene.report(incarnation=7.0, seq=1).hold_s == 0.0


def test_a_silent_engine_loses_its_leases_and_a_report_keeps_them(scene: Scene) -> None:
    (lease,) = scene.report(wants_rows=16).leases
    for _ in range(5):
        scene.wait(0.9 * scene.policy.lease_s)
        assert scene.report(held=(lease,)).dropped == ()
    scene.wait(scene.policy.lease_s + 1.0)
    assert scene.state.chunks[lease.chunk_id].state is ChunkState.AVAILABLE
    assert scene.state.engines["e1"].lost
    assert scene.report(held=(lease,)).dropped == (lease.chunk_id,)
    assert not scene.state.engines["e1"].lost


def test_the_wall_clock_expires_no_lease(scene: Scene) -> None:
    (lease,) = scene.report(wants_rows=16).leases
    for jump_s in (7_200.0, -14_400.0, 1e9):
        scene.wall += jump_s
        scene.wait(1.0)
        assert scene.state.chunks[lease.chunk_id].token == lease.token


def test_after_a_restart_engines_have_one_lease_period_to_claim_what_they_hold(scene: Scene) -> None:
    (kept,) = scene.report("e1", wants_rows=16).leases
    (unclaimed,) = scene.report("e2", wants_rows=16).leases
    restart(scene)
    scene.wait(0.0)
    scene.wait(0.5 * scene.policy.lease_s)
    assert scene.report("e1", held=(kept,)).dropped == ()
    scene.wait(0.6 * scene.policy.lease_s)
    assert scene.state.chunks[kept.chunk_id].token == kept.token
    assert scene.state.chunks[kept.chunk_id].state is ChunkState.LEASED
    assert scene.state.chunks[unclaimed.chunk_id].state is ChunkState.AVAILABLE
    assert scene.write("p1", slice_of(kept)) == (Verdict.ACCEPTED,)


def restart(scene: Scene) -> None:
    """The process is gone, and with it everything volatile."""
    images = scene.state.images()
    scene.state = State()
    scene.state.load(images)
