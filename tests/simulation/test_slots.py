"""Three models in turns on one slot or two: every batch ends, and no model is loaded for nothing."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest

from raybatch.core import events as e
from raybatch.core.model import File
from tests.simulation.engine import LOAD_S
from tests.simulation.histories import live
from tests.simulation.models import SLOT_MODELS
from tests.simulation.world import POLICY, World


@pytest.mark.parametrize("slots", [1, 2])
def test_batches_of_three_models_all_end(slots: int) -> None:
    live_all(range(40), slots)


def live_all(seeds: Iterable[int], slots: int) -> list[World]:
    return [live(seed, slots) for seed in seeds]


def test_the_histories_are_rich() -> None:
    worlds = live_all(range(30), slots=1)
    kinds = {entry.kind for world in worlds for entry in world.state.log.values()}
    assert {"idle", "loading", "ready", "stopped", "failed"} <= kinds
    assert sum(len(world.swaps) for world in worlds) > 20


def crowded(rows: int) -> World:
    """One slot, no fault, and one large batch of each of three models at once."""
    world = World(0, slots=1)
    world.faults = False
    for number, model in enumerate(SLOT_MODELS):
        names = (f"batch-{number}", "t", f"file-{number}", f"out-{number}", f"err-{number}")
        world.happen(e.FileStored("client", File(f"file-{number}", "t", "batch", "in.jsonl", 1, 0.0)))
        world.happen(
            e.BatchAsked(
                "client", *names, "/v1/chat/completions", "24h", 86_400.0, None, 0, model, None, False
            )
        )
        world.happen(e.IntakeEnded(f"batch-{number}", rows, model, 10 * rows, ()))
    world.chores.waiting.clear()
    return world


def test_no_more_swaps_than_turns_and_every_model_has_its_turn() -> None:
    world = crowded(rows=2_000)
    started_s = world.clock_s
    world.settle()
    turns = (world.clock_s - started_s) / (POLICY.turn_s + LOAD_S)
    ends = len(SLOT_MODELS)  #: a model whose work is done leaves at once
    assert 2 * ends < len(world.swaps) <= turns + ends
    loaded = [entry.message.split()[0] for entry in world.state.log.values() if entry.kind == "ready"]
    assert all(left != right for left, right in pairwise(loaded))
    assert loaded[:6] == [*SLOT_MODELS, *SLOT_MODELS]


def test_batches_that_one_turn_can_hold_cost_one_load_each() -> None:
    world = crowded(rows=300)
    world.settle()
    assert len(world.swaps) == len(SLOT_MODELS) - 1
