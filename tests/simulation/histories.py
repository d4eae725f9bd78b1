"""Whole histories of the simulated world, and what is told of one that broke."""

from __future__ import annotations

from tests.simulation.judge import Stuck
from tests.simulation.plan import Plan, plan_of
from tests.simulation.transcript import Transcript
from tests.simulation.world import CHECK_EVERY_STEPS, World


class Broken(AssertionError):
    """A history in which something did not hold: what must never happen did (safety), or what must happen
    did not (liveness).
    """

    def __init__(self, world: World, error: Exception) -> None:
        self.seed, self.slots, self.error = world.seed, world.slots, error
        self.played = world.played
        self.kind = "liveness" if isinstance(error, Stuck) else "safety"
        when = "with faults" if world.faults else "after the faults had stopped"
        shown = str(error) if isinstance(error, AssertionError) and str(error) else repr(error)
        super().__init__(f"seed {world.seed}: {self.kind}, {when}, at commit {world.seq}: {shown}")


def live(
    seed: int, slots: int = 0, plan: Plan | None = None, told: Transcript | None = None, every: int = 0
) -> World:
    """A whole history: some time with faults, then without. Raises Broken, naming the seed.

    ``plan``: the steps to play of it, all without one. ``every``: so many steps the judge looks once.
    """
    world = World(seed, slots=slots, told=told)
    try:
        world.play(plan_of(seed) if plan is None else plan, every or CHECK_EVERY_STEPS)
        world.settle()
    except Exception as error:
        raise Broken(world, error) from error
    return world
