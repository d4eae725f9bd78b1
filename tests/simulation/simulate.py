"""Histories by the thousand, on all cores: ``python -m tests.simulation.simulate --seeds 5000``.

Ends with 1 at the first that fails, after it has named its seed, shrunk it and told it. ``--seed N`` plays
one seed again, exactly. ``--mutant NAME`` puts a known bug in first, to see what a failure looks like.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from contextlib import ExitStack
from typing import Final

from tests.simulation.histories import Broken, live
from tests.simulation.mutants import BY_NAME, place_of, quiet
from tests.simulation.plan import STEPS
from tests.simulation.power import PowerBroken, live_through_cuts
from tests.simulation.shrink import TRIES, shrunk, told

SEEDS: Final = 1000
TOLD_EVERY_S: Final = 10.0
SLOTS_EVERY: Final = 4  #: seeds: one of so many is also played on slots, one or two in turn

_for_life = ExitStack()  #: of a process that plays seeds


def main() -> int:
    asked = _arguments()
    if asked.seed is not None:
        quiet()
        with ExitStack() as stack:
            if asked.mutant:
                stack.enter_context(BY_NAME[asked.mutant].planted())
            return _replay(asked.seed, asked.tries)
    began = time.monotonic()
    seeds = range(asked.first, asked.first + asked.seeds)
    failed = _first_failure(seeds, asked.processes, asked.mutant)
    took_s = time.monotonic() - began
    if failed is None:
        print(f"{len(seeds)} seeds in {took_s:.0f} s: nothing failed")
        return 0
    seed, message = failed
    print(f"\n{message}\n\nShrinking it. To play it again: python -m tests.simulation.simulate --seed {seed}")
    with ExitStack() as stack:
        quiet()
        if asked.mutant:
            stack.enter_context(BY_NAME[asked.mutant].planted())
        _replay(seed, asked.tries)
    return 1


def play(seed: int) -> None:
    """Every world's history of a seed. Raises Broken or PowerBroken."""
    live(seed)
    live_through_cuts(seed)
    if seed % SLOTS_EVERY == 0:
        live(seed, slots=1 + seed // SLOTS_EVERY % 2)


def _first_failure(seeds: range, processes: int, mutant: str | None) -> tuple[int, str] | None:
    told_at = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes, _begin, (mutant,)) as pool:
        for done, (seed, message) in enumerate(pool.imap_unordered(_played, seeds, chunksize=4), start=1):
            if message is not None:
                return seed, message
            if time.monotonic() - told_at >= TOLD_EVERY_S:
                told_at = time.monotonic()
                print(f"{done} of {len(seeds)} seeds", flush=True)
    return None


def _begin(mutant: str | None) -> None:
    quiet()
    if mutant is not None:
        _for_life.enter_context(BY_NAME[mutant].planted())


def _played(seed: int) -> tuple[int, str | None]:
    try:
        play(seed)
    except AssertionError as failure:
        return seed, str(failure)
    return seed, None


def _replay(seed: int, tries: int) -> int:
    try:
        play(seed)
    except Broken as broken:
        plan = shrunk(broken, tries)
        lines, failure = told(broken, plan)
        print(f"\n{len(plan)} of {STEPS} steps are left:\n")
        print("\n".join(lines))
        print(f"\n{failure}\nin {place_of(failure)}")
        return 1
    except PowerBroken as broken:
        lines = []
        try:
            live_through_cuts(seed, lines)
        except PowerBroken:
            print("\n".join(["", *lines]))
        print(f"\n{broken}\nin {place_of(broken)}")
        return 1
    print(f"seed {seed}: nothing failed")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="play histories of the simulated world")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many ({SEEDS})")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one, again")
    parser.add_argument("--mutant", choices=BY_NAME, help="with this known bug in the code")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--tries", type=int, default=TRIES, help="to make a failure shorter")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
