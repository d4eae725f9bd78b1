"""Hundreds of histories. That the checkers can fail is shown by ``test_mutants``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from raybatch.core.model import BatchStatus
from tests.simulation.histories import live
from tests.simulation.world import World


@pytest.mark.parametrize("first_seed", range(0, 300, 50))
def test_every_row_ends_up_committed_once_and_every_batch_ends(first_seed: int) -> None:
    _live_all(range(first_seed, first_seed + 50))


def _live_all(seeds: Iterable[int]) -> list[World]:
    return [live(seed) for seed in seeds]


def test_the_histories_are_rich() -> None:
    worlds = _live_all(range(40))
    batches = [batch for world in worlds for batch in world.state.batches.values()]
    statuses = {batch.status for batch in batches}
    parts = [part for world in worlds for held in world.state.parts.values() for part in held.values()]
    assert {BatchStatus.COMPLETED, BatchStatus.CANCELLED, BatchStatus.FAILED, BatchStatus.EXPIRED} <= statuses
    for status in (BatchStatus.CANCELLED, BatchStatus.EXPIRED):
        assert any(batch.status is status and batch.tally.completed for batch in batches)
    mixed = [batch for batch in batches if batch.spans]
    assert {BatchStatus.COMPLETED, BatchStatus.CANCELLED} <= {batch.status for batch in mixed}
    assert any(batch.round > 1 for batch in mixed)
    assert any(part.level > 0 for part in parts)
    assert any(world.boot_s for world in worlds)
    assert any(world.deleted for world in worlds)
    assert any(change.part.masked for change in _committed_parts(worlds))


def _committed_parts(worlds: list[World]) -> list[Any]:
    changes = [change for world in worlds for changes, _ in world.history for change in changes]
    return [change for change in changes if hasattr(change, "slices")]
