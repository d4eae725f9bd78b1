"""Leases as they are counted: whatever happens to a chunk, the counts are those of all chunks together."""

from __future__ import annotations

from dataclasses import replace

from raybatch.core.holdings import Holdings
from raybatch.core.model import Chunk, ChunkState
from tests.core.scene import Scene, slice_of

CHUNK = Chunk(1, "b", 0, 8, ChunkState.LEASED, 1, "e1")


def test_a_lease_is_counted_until_it_ends() -> None:
    holdings = Holdings()
    holdings.replace(None, CHUNK)
    assert (holdings.by_holder, holdings.leased_rows) == ({"e1": {1: None}}, {"b": 8})

    some = replace(CHUNK, covered=0b111)
    holdings.replace(CHUNK, some)
    assert holdings.leased_rows == {"b": 5}

    free = replace(some, state=ChunkState.AVAILABLE, engine_id=None)
    holdings.replace(some, free)
    assert (holdings.by_holder, holdings.leased_rows) == ({}, {})
    assert holdings.available == {"b": {1: None}}

    other = replace(free, state=ChunkState.LEASED, engine_id="e2")
    holdings.replace(free, other)
    assert (holdings.by_holder, holdings.leased_rows) == ({"e2": {1: None}}, {"b": 5})

    holdings.replace(other, replace(other, state=ChunkState.COMPLETED, covered=0xFF))
    assert holdings == Holdings()


def test_a_state_that_is_loaded_counts_as_the_one_that_was_saved() -> None:
    scene = Scene()
    scene.accept(100)
    (lease,) = scene.report(wants_rows=16).leases
    scene.write("p1", slice_of(lease, 0b1111))
    before = scene.state.holdings

    scene.restart()

    assert scene.state.holdings == before
    assert scene.state.leased_rows("batch_1") == 12
    assert [chunk.chunk_id for chunk in scene.state.leases_of("e1")] == [lease.chunk_id]
    assert scene.state.available_chunks("batch_1") == []
