"""Everything that can happen in a small world, tried: ``python -m tests.simulation.exhaust``.

Breadth first, so that what is found is a shortest history. Looked for is what may never come (the moves raise
AssertionError then), and a world from which no end can be reached any more.
"""

from __future__ import annotations

import argparse
import sys
import time
from array import array
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b

from raybatch.errors import IllegalMove
from tests.simulation.mutants import BY_NAME
from tests.simulation.small_fingerprint import fingerprint
from tests.simulation.small_world import SmallWorld, World


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to. ``history``: the shortest one to what is wrong, empty when nothing is."""

    worlds: int
    moves: int
    ends: int  #: worlds in which every row is committed
    history: tuple[str, ...] = ()
    wrong: str = ""


def exhaust(small: SmallWorld, worlds_max: int = 10_000_000) -> Found:
    """Every world that can come of the first. Raises OverflowError beyond ``worlds_max`` of them."""
    numbers = {_digest(small, small.first): 0}
    came = [(0, "")]  #: by number: from which world, by what
    before: list[array[int]] = [array("q")]
    ends: list[int] = []
    waiting: deque[tuple[int, World]] = deque([(0, small.first)])
    moves = 0
    while waiting:
        number, world = waiting.popleft()
        if world.over:
            ends.append(number)
        for words, move in small.moves(world):
            moves += 1
            try:
                after = move()
            except (AssertionError, IllegalMove) as failure:
                history = (*_history(came, number), words)
                return Found(len(numbers), moves, len(ends), history, f"safety: {failure}")
            digest = _digest(small, after)
            known = numbers.get(digest)
            if known is None:
                known = numbers[digest] = len(numbers)
                if known >= worlds_max:
                    raise OverflowError(f"more than {worlds_max:,} worlds: choose smaller bounds")
                came.append((number, words))
                before.append(array("q"))
                waiting.append((known, after))
            before[known].append(number)
    stuck = _stuck(before, ends)
    if stuck is not None:
        wrong = "liveness: from here no history leads to an end"
        return Found(len(numbers), moves, len(ends), _history(came, stuck), wrong)
    return Found(len(numbers), moves, len(ends))


def _stuck(before: list[array[int]], ends: list[int]) -> int | None:
    """The first world, thus one of the nearest, from which no end can be reached."""
    hopeful = bytearray(len(before))
    waiting = deque(ends)
    for number in ends:
        hopeful[number] = 1
    while waiting:
        for number in before[waiting.popleft()]:
            if not hopeful[number]:
                hopeful[number] = 1
                waiting.append(number)
    place = hopeful.find(0)
    return None if place < 0 else place


def _history(came: list[tuple[int, str]], number: int) -> tuple[str, ...]:
    told: list[str] = []
    while number:
        number, words = came[number]
        told.append(words)
    return tuple(reversed(told))


def _digest(small: SmallWorld, world: World) -> bytes:
    return blake2b(fingerprint(world, small.served).encode(), digest_size=16).digest()


def main() -> int:
    asked = _arguments()
    with ExitStack() as stack:
        if asked.mutant and asked.mutant != "answers_first":
            stack.enter_context(BY_NAME[asked.mutant].planted())
        answers_first = asked.mutant == "answers_first"
        began = time.monotonic()
        small = SmallWorld(asked.rows, asked.engines, asked.faults, asked.wants, answers_first=answers_first)
        found = exhaust(small)
    took_s = time.monotonic() - began
    print(f"{found.worlds:,} worlds, {found.moves:,} moves, {found.ends:,} ends in {took_s:.0f} s")
    if not found.wrong:
        print("nothing that may never come, and an end within reach of every world")
        return 0
    print(f"\n{found.wrong}\n")
    print("\n".join(f"{place:3}  {words}" for place, words in enumerate(found.history, start=1)))
    return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="try everything that can happen in a small world")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--faults", type=int, default=2, help="of any kind, at any moments")
    parser.add_argument("--wants", type=int, default=2, help="rows of a lease, at most")
    parser.add_argument("--mutant", choices=["answers_first", *BY_NAME], help="with this known bug")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
