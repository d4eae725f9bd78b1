"""Which rows an engine gets, how many, and that nobody else has them."""

from __future__ import annotations

from raybatch.core.commands import Lease
from raybatch.core.events import DrainAsked, EnginePhase
from raybatch.core.model import CHUNK_ROWS_MAX, ChunkState
from tests.core.scene import Scene, slice_of


def positions(leases: tuple[Lease, ...]) -> set[tuple[str, int]]:
    found = [
        (lease.batch_id, lease.first + i)
        for lease in leases
        for i in range(lease.count)
        if lease.rows >> i & 1
    ]
    assert len(found) == len(set(found)), "a row is leased twice"
    return set(found)


def rows_by_batch(leases: tuple[Lease, ...]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for lease in leases:
        rows[lease.batch_id] = rows.get(lease.batch_id, 0) + lease.rows.bit_count()
    return rows


def test_no_row_is_leased_to_two_engines_and_all_are_leased() -> None:
    scene = Scene()
    scene.accept(500)
    given: tuple[Lease, ...] = ()
    held: dict[str, tuple[Lease, ...]] = {"e1": (), "e2": (), "e3": ()}
    while scene.state.leased_rows("batch_1") < 500:
        for engine_id in held:
            fresh = scene.report(engine_id, held=held[engine_id], wants_rows=40).leases
            held[engine_id] += fresh
            given += fresh
    assert positions(given) == {("batch_1", position) for position in range(500)}
    assert len({lease.token for lease in given}) == len(given)


def test_an_engine_gets_about_what_it_asks_for_and_nothing_when_it_asks_for_nothing() -> None:
    scene = Scene()
    scene.accept(10_000)
    assert scene.report(wants_rows=0).leases == ()
    assert sum(rows_by_batch(scene.report(wants_rows=300).leases).values()) == 300


def test_an_engine_is_told_how_many_rows_it_alone_may_still_get() -> None:
    scene = Scene()
    scene.accept(500)
    scene.accept(100, "batch_2")
    first = scene.report("e1", wants_rows=300)
    assert first.left_rows == 300
    assert scene.report("e1", held=first.leases, wants_rows=0).left_rows is None, "nobody looked"
    second = scene.report("e2", wants_rows=100)
    assert (sum(lease.count for lease in second.leases) > 0, second.left_rows) == (True, None)


def test_all_engines_are_told_when_nothing_is_left() -> None:
    scene = Scene()
    scene.accept(40)
    first = scene.report("e1", wants_rows=100, window=100)
    assert first.left_rows == 0
    assert scene.report("e2", wants_rows=100, window=100).left_rows == 0


def test_no_chunk_is_larger_than_a_bitmap_may_be() -> None:
    scene = Scene()
    scene.accept(100_000)
    leases = scene.report(wants_rows=50_000, window=50_000).leases
    assert sum(rows_by_batch(leases).values()) == 50_000
    assert max(lease.count for lease in leases) == CHUNK_ROWS_MAX


def test_a_small_batch_is_not_stuck_behind_a_large_one() -> None:
    scene = Scene()
    scene.accept(100_000, "batch_1")
    first = scene.report(wants_rows=2_000).leases
    scene.accept(30, "batch_2")
    later = scene.report(held=first, wants_rows=500).leases
    assert rows_by_batch(later)["batch_2"] == 30


def test_batches_of_one_priority_share_and_a_higher_one_goes_first() -> None:
    scene = Scene()
    scene.accept(1_000, "batch_1")
    scene.accept(1_000, "batch_2")
    assert rows_by_batch(scene.report(wants_rows=400).leases) == {"batch_1": 200, "batch_2": 200}
    scene.accept(1_000, "batch_3", priority=1)
    assert rows_by_batch(scene.report("e2", wants_rows=400).leases) == {"batch_3": 400}


def test_only_rows_of_the_engines_model_are_leased() -> None:
    scene = Scene()
    scene.accept(50, "batch_1", model="another")
    scene.accept(50, "batch_2")
    assert rows_by_batch(scene.report(wants_rows=500).leases) == {"batch_2": 50}


def test_only_an_engine_that_is_ready_gets_rows() -> None:
    scene = Scene()
    scene.accept(50)
    for phase in set(EnginePhase) - {EnginePhase.READY}:
        assert scene.report(wants_rows=500, phase=phase).leases == ()


def test_engines_share_the_end_of_a_batch_in_halves() -> None:
    scene = Scene()
    scene.accept(400)
    scene.report("e2")
    leases = scene.report("e1", wants_rows=1_000, window=1_000).leases
    sizes = [lease.count for lease in leases]
    assert sizes[:3] == [100, 75, 57]  # a quarter of what is left, each time
    assert sizes == sorted(sizes, reverse=True)


def test_an_engine_alone_takes_the_end_at_once_and_lost_or_foreign_engines_do_not_count() -> None:
    scene = Scene()
    scene.accept(400)
    scene.report("e2")
    scene.report("e3", model="another")
    scene.wait(scene.policy.engine_silent_s + 1.0)
    assert [lease.count for lease in scene.report("e1", wants_rows=1_000, window=1_000).leases] == [400]


def test_near_the_end_rows_to_wait_are_shared_by_speed() -> None:
    """One engine is thrice as fast: what waits behind its window is three quarters of what is left."""
    scene = Scene()
    scene.accept(160)
    scene.report("fast", wants_rows=0, window=32, rows_per_s=3.0)
    slow = scene.report("slow", wants_rows=64, window=32, rows_per_s=1.0).leases
    assert rows_by_batch(slow) == {"batch_1": 40}  # a quarter of 160, though it could hold 64
    scene.report("slow", held=slow, wants_rows=24, window=32, rows_per_s=1.0)
    fast = scene.report("fast", wants_rows=64, window=32, rows_per_s=3.0).leases
    assert rows_by_batch(fast) == {"batch_1": 64}


def test_an_engine_may_fill_its_window_however_slow_it_is() -> None:
    scene = Scene()
    scene.accept(160)
    scene.report("fast", wants_rows=0, window=32, rows_per_s=1_000.0)
    given = scene.report("slow", wants_rows=64, window=32, rows_per_s=0.1).leases
    assert rows_by_batch(given) == {"batch_1": 32}


def test_an_engine_without_rows_gets_some_whatever_it_says_it_can_hold() -> None:
    """What it holds is believed only as far as leases show it."""
    scene = Scene()
    scene.accept(160)
    scene.report("e2", window=64)
    assert rows_by_batch(scene.report("e1", wants_rows=8, window=64).leases) == {"batch_1": 8}


def test_freed_chunks_go_first_and_only_their_missing_rows() -> None:
    scene = Scene()
    scene.accept(1_000)
    (lease,) = scene.report(wants_rows=16).leases
    scene.write("p1", slice_of(lease, 0b1111))
    again = scene.report("e2", wants_rows=16).leases  # e1 still holds its chunk
    assert again[0].chunk_id != lease.chunk_id
    scene.report("e1", held=())
    assert scene.state.chunks[lease.chunk_id].state is ChunkState.AVAILABLE
    retried = scene.report("e2", held=again, wants_rows=16).leases[0]
    assert (retried.chunk_id, retried.first, retried.rows) == (lease.chunk_id, 0, 0xFFF0)
    assert (retried.attempt, retried.token > lease.token) == (2, True)


def test_nothing_is_leased_while_draining() -> None:
    scene = Scene()
    scene.accept(100)
    scene.report()
    scene.say(DrainAsked("r", True))
    orders = scene.report(wants_rows=50)
    assert (orders.leases, orders.drain) == ((), True)
    scene.say(DrainAsked("r", False))
    assert scene.report(wants_rows=50).leases
