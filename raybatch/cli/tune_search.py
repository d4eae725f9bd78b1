"""Which settings answer fastest, found by climbing: one setting at a time, from the present value to its
neighbours, and on in a direction as long as it wins.

It measures nothing itself: a trial is a function, so that everything here can be tried without an engine. It
takes no difference for a gain that the candidates' own rounds show as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from raybatch.errors import OperatorError

GAIN_MIN: Final = 1.02  #: less is not worth a setting
ROUNDS_MIN: Final = 2  #: one round has no spread

Value = int | float | bool | str
Values = dict[str, Value]  #: settings of the section ``vllm``


@dataclass(frozen=True)
class Ladder:
    """A setting, and the values to climb over."""

    key: str
    rungs: tuple[Value, ...]  #: in their order

    def neighbours(self, value: Value) -> tuple[Value, ...]:
        place = self.rungs.index(value)
        return (*self.rungs[max(0, place - 1) : place], *self.rungs[place + 1 : place + 2])

    def beyond(self, value: Value, came_from: Value) -> tuple[Value, ...]:
        """Further on in the same direction: at most one."""
        return tuple(rung for rung in self.neighbours(value) if rung != came_from)


@dataclass(frozen=True)
class Run:
    """What one candidate came to in one round."""

    tokens_per_s: float  #: output tokens, in the steady middle
    memory_bytes: int  #: of the engine's processes, at most
    gpu_memory_bytes: int | None = None  #: None: there is no card


@dataclass(frozen=True)
class Failed:
    reason: str


Trial = Callable[[Values], Run | Failed]


@dataclass
class Candidate:
    values: Values
    runs: list[Run] = field(default_factory=list)
    failed: str | None = None  #: why; what fails once is not tried again

    @property
    def tokens_per_s(self) -> float:
        """The median round."""
        return median(run.tokens_per_s for run in self.runs)

    @property
    def slowest(self) -> float:
        return min(run.tokens_per_s for run in self.runs)

    @property
    def fastest(self) -> float:
        return max(run.tokens_per_s for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """Candidates measured beside each other, in rounds, every second one in reverse. The first one holds the
    place; another one takes it when even its slowest round is faster than the fastest of the first, and its
    median by a fiftieth.
    """

    key: str  #: the setting in which they differ; empty: those found against those there were
    candidates: tuple[Candidate, ...]

    @property
    def winner(self) -> Candidate:
        """Raises OperatorError when none of them ran."""
        ran = [candidate for candidate in self.candidates if candidate.failed is None]
        if not ran:
            raise OperatorError(
                f"no engine ran to the end, neither with the present settings nor beside them:"
                f" {self.candidates[0].failed}"
            )
        better = [candidate for candidate in ran if self.is_gain(candidate)]
        return max(better, key=lambda candidate: candidate.tokens_per_s, default=ran[0])

    def is_gain(self, candidate: Candidate) -> bool:
        first = self.candidates[0]
        if candidate is first or candidate.failed is not None:
            return False
        if first.failed is not None:
            return True
        return candidate.slowest > first.fastest and self.ratio(candidate) >= GAIN_MIN

    def ratio(self, candidate: Candidate) -> float:
        """To the first one."""
        return candidate.tokens_per_s / self.candidates[0].tokens_per_s


def climb(present: Values, ladders: Sequence[Ladder], rounds: int, trial: Trial) -> Iterator[Comparison]:
    """Each comparison when it is done; the last one's winner is the result.

    What was won in several steps is compared with ``present`` once more, side by side.
    """
    best, steps = present, 0
    for ladder in ladders:
        came_from, rivals = best[ladder.key], ladder.neighbours(best[ladder.key])
        while rivals:
            values = (best, *(best | {ladder.key: rung} for rung in rivals))
            comparison = compared(ladder.key, values, rounds, trial)
            yield comparison
            if comparison.winner.values == best:
                break
            came_from, best, steps = best[ladder.key], comparison.winner.values, steps + 1
            rivals = ladder.beyond(best[ladder.key], came_from)
    if steps > 1:
        yield compared("", (present, best), rounds, trial)


def compared(key: str, values: Sequence[Values], rounds: int, trial: Trial) -> Comparison:
    candidates = tuple(Candidate(dict(each)) for each in values)
    for number in range(rounds):
        for candidate in candidates if number % 2 == 0 else reversed(candidates):
            if candidate.failed is not None:
                continue
            found = trial(candidate.values)
            if isinstance(found, Failed):
                candidate.failed = found.reason
            else:
                candidate.runs.append(found)
    return Comparison(key, candidates)
