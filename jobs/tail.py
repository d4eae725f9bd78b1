"""P4: how much of the ideal is left of a batch on several engines when nobody knows how long its rows are.

In virtual time, with the production scheduler's decisions (``jobs.virtual``): several real engines on one
machine would measure its cores. Every figure can be computed again to the last digit.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from jobs.runs import Ratio
from jobs.virtual import Shape, VirtualCluster, straight_s

KINDS_OF_ROWS: Final = 5  #: in a file that has one kind after the other
KIND_SPREAD: Final = 0.6  #: of the logarithm of a kind's median
EFFICIENCY_MIN: Final = 0.95  #: of the ideal: the goal
#: in the order of the tables; ``<arm>_s`` of a case is its makespan
ARMS: Final = {
    "raybatch": "raybatch",
    "longest_first": "longest first, knowing all",
    "one_queue": "one queue, knowing nothing",
    "static": "static split",
}
SLOW: Final = 2.0  #: times as long a step takes on the slow engine of "uneven"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    engines: int
    rows: int
    shape: Shape
    median_tokens: int
    spread: float  #: of the logarithm of a row's length
    longest_tokens: int


@dataclass(frozen=True)
class Case:
    """Makespans in virtual seconds."""

    scenario: str
    seed: int
    tokens: int
    ideal_s: float  #: every engine full from the first to the last moment: nothing can be faster
    raybatch_s: float
    longest_first_s: float  #: one queue, row by row, by somebody who knows every length
    one_queue_s: float  #: the same in the order of the file: the best that can be done without knowing
    static_s: float  #: the file in equal pieces, one an engine

    @property
    def efficiency(self) -> float:
        return self.ideal_s / self.raybatch_s

    @property
    def over_static(self) -> float:
        return self.static_s / self.raybatch_s


def even(sizes: Sizes, chance: random.Random) -> tuple[list[int], list[Shape]]:
    """Rows in no order, engines alike."""
    return _lengths(sizes, sizes.rows, 0.0, chance), [sizes.shape] * sizes.engines


def kinds(sizes: Sizes, chance: random.Random) -> tuple[list[int], list[Shape]]:
    """A file of several kinds of rows, one after the other: some long, some short."""
    pieces = [len(range(kind, sizes.rows, KINDS_OF_ROWS)) for kind in range(KINDS_OF_ROWS)]
    lengths = [
        length for rows in pieces for length in _lengths(sizes, rows, chance.gauss(0, KIND_SPREAD), chance)
    ]
    return lengths, [sizes.shape] * sizes.engines


def uneven(sizes: Sizes, chance: random.Random) -> tuple[list[int], list[Shape]]:
    """Rows in no order, one engine half as fast."""
    shape = sizes.shape
    slow = Shape(SLOW * shape.alpha_s, SLOW * shape.beta_s, shape.concurrency)
    return _lengths(sizes, sizes.rows, 0.0, chance), [slow, *[shape] * (sizes.engines - 1)]


SCENARIOS: Final = {"even": even, "kinds": kinds, "uneven": uneven}


def measure(sizes: Sizes, seeds: int, say: Say) -> list[Case]:
    cases = []
    for name in SCENARIOS:
        for seed in range(seeds):
            case = play(name, sizes, seed)
            say(f"{name}, seed {seed}: {case.efficiency:.3f} of ideal, {case.over_static:.2f} times static")
            cases.append(case)
    return cases


def play(scenario: str, sizes: Sizes, seed: int) -> Case:
    lengths, shapes = SCENARIOS[scenario](sizes, random.Random(seed))
    cluster = VirtualCluster(shapes)
    batch_id = cluster.create(lengths)
    cluster.run()
    share = -(-len(lengths) // len(shapes))
    pieces = [deque(lengths[first : first + share]) for first in range(0, share * len(shapes), share)]
    longest_first, in_order = deque(sorted(lengths, reverse=True)), deque(lengths)
    return Case(
        scenario,
        seed,
        sum(lengths),
        ideal_s=ideal_s(lengths, shapes),
        raybatch_s=cluster.ended_s[batch_id],
        longest_first_s=straight_s(shapes, [longest_first] * len(shapes)),
        one_queue_s=straight_s(shapes, [in_order] * len(shapes)),
        static_s=straight_s(shapes, pieces),
    )


def ideal_s(lengths: Sequence[int], shapes: Sequence[Shape]) -> float:
    """All engines at their best all the time, or the longest row alone on the fastest one."""
    together_s = sum(lengths) / sum(shape.tokens_per_s for shape in shapes)
    return max(together_s, max(lengths) * min(shape.step_s(1) for shape in shapes))


def report(cases: list[Case], sizes: Sizes) -> dict[str, Any]:
    """As it is written to JSON."""
    by_name = {name: [case for case in cases if case.scenario == name] for name in SCENARIOS}
    return {
        "metric": "P4 tail and balance: ideal ÷ makespan and static ÷ makespan, lengths unknown",
        "ratio": {
            **{
                f"{name}: ideal ÷": Ratio.of([case.efficiency for case in mine])
                for name, mine in by_name.items()
            },
            **{
                f"{name}: static ÷": Ratio.of([case.over_static for case in mine])
                for name, mine in by_name.items()
            },
        },
        "arms": {
            name: {arm: Ratio.of([case.ideal_s / getattr(case, f"{arm}_s") for case in mine]) for arm in ARMS}
            for name, mine in by_name.items()
        },
        "sizes": sizes,
        "runs": [
            asdict(case) | {"efficiency": case.efficiency, "over_static": case.over_static} for case in cases
        ],
    }


def _lengths(sizes: Sizes, rows: int, shift: float, chance: random.Random) -> list[int]:
    median = math.log(sizes.median_tokens) + shift
    return [
        min(max(1, round(chance.lognormvariate(median, sizes.spread))), sizes.longest_tokens)
        for _ in range(rows)
    ]
