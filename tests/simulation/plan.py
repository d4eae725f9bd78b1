"""What happens in a history, step by step, as its seed draws it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

STEPS: Final = 700

Step = tuple[int, str]  #: its number, which is what it draws from, and what happens
Plan = Sequence[Step]

#: who may do what in a step, and how often beside the others
ACTIONS: Final = {
    "network.deliver": 30,
    "network.deliver_reply": 30,
    "network.deliver_again": 3,
    "world.engine_reports": 14,
    "world.engine_runs": 16,
    "world.engine_flushes": 16,
    "chores.run_one": 8,
    "world.time_passes": 8,
    "clients.creates": 3,
    "clients.cancels": 1,
    "clients.retries": 1,
    "clients.pauses": 1,
    "clients.deletes_a_file": 1,
    "clients.deletes_a_batch": 1,
    "world.engine_is_born_again": 1,
    "world.scheduler_dies": 1,
    "world.clock_is_set": 1,
    "network.is_cut_somewhere": 1,
}


def plan_of(seed: int, steps: int = STEPS) -> Plan:
    names = Random(f"plan {seed}").choices(list(ACTIONS), list(ACTIONS.values()), k=steps)
    return list(enumerate(names))
