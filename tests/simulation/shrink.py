"""A failed history made short: steps are left out as long as the same thing fails at the same place.

Bounded in tries, so what is left may still hold steps that do not matter.
"""

from __future__ import annotations

from typing import Final

from tests.simulation.histories import Broken, live
from tests.simulation.mutants import place_of
from tests.simulation.plan import Plan, plan_of
from tests.simulation.transcript import Transcript

TRIES: Final = 400


def shrunk(broken: Broken, tries_max: int = TRIES) -> Plan:
    """The steps that are left of the history."""
    plan = plan_of(broken.seed)
    size = len(plan) // 2
    plan = _up_to_the_failure(plan, broken) or plan
    tries = 0
    while size and tries < tries_max:
        left_out = False
        end = len(plan)
        while end > 0 and tries < tries_max:  # from the back: what is late matters least
            shorter = [*plan[: max(0, end - size)], *plan[end:]]
            found = _up_to_the_failure(shorter, broken)
            tries += 1
            if found is not None:
                plan, left_out = found, True
            end = min(len(plan), end - size)
        size = size if left_out and size > 1 else size // 2
    return plan


def told(broken: Broken, plan: Plan) -> tuple[list[str], Broken]:
    """The transcript of a plan that fails, and how it does."""
    transcript = Transcript()
    failure = _failure(broken, plan, transcript)
    assert failure is not None, "a history that was just seen to fail did not: it is not deterministic"
    return transcript.lines, failure


def _up_to_the_failure(plan: Plan, like: Broken) -> Plan | None:
    failure = _failure(like, plan)
    if failure is None or (failure.kind, place_of(failure)) != (like.kind, place_of(like)):
        return None
    return plan[: failure.played]


def _failure(broken: Broken, plan: Plan, transcript: Transcript | None = None) -> Broken | None:
    try:
        live(broken.seed, broken.slots, plan, transcript, every=1)
    except Broken as failure:
        return failure
    return None
