"""What was measured of one run of one arm, and how two arms compare."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

STEADY: Final = (0.1, 0.9)  #: of the output tokens


@dataclass(frozen=True)
class Finish:
    """A row's end, when all of its tokens are counted at once."""

    at_s: float  #: since the start of the run
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  #: of the prompt's, found in the engine's prefix cache


@dataclass(frozen=True)
class Run:
    arm: str
    round: int
    seed: int  #: of its prompts: the runs of a seed did the same work
    wall_s: float
    finishes: tuple[Finish, ...]  #: in the order of time
    phases_s: dict[str, float]  #: the parts that ``wall_s`` is made of
    cpu_s: dict[str, float]  #: used by the processes of the arm, by kind
    idle_cpu_s: float  #: used meanwhile by the engines of other arms

    @property
    def prompt_tokens(self) -> int:
        return sum(finish.prompt_tokens for finish in self.finishes)

    @property
    def completion_tokens(self) -> int:
        return sum(finish.completion_tokens for finish in self.finishes)

    @property
    def cached_share(self) -> float:
        """Of the prompts' tokens: those that the prefix cache held."""
        return sum(finish.cached_tokens for finish in self.finishes) / self.prompt_tokens

    @property
    def wall_tokens_per_s(self) -> float:
        return self.completion_tokens / self.wall_s

    @property
    def steady_s(self) -> float:
        """From the finish that brings the tokens to a tenth to the one that brings them to nine."""
        (_, begin_s), (_, end_s) = self._window()
        return end_s - begin_s

    @property
    def steady_tokens_per_s(self) -> float:
        (before, begin_s), (after, end_s) = self._window()
        return (after - before) / (end_s - begin_s) if end_s > begin_s else 0.0

    def figures(self) -> dict[str, Any]:
        """As they are written to JSON."""
        return {
            "arm": self.arm,
            "round": self.round,
            "seed": self.seed,
            "rows": len(self.finishes),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_share": self.cached_share,
            "wall_s": self.wall_s,
            "steady_s": self.steady_s,
            "wall_tokens_per_s": self.wall_tokens_per_s,
            "steady_tokens_per_s": self.steady_tokens_per_s,
            "phases_s": self.phases_s,
            "cpu_s": self.cpu_s,
            "idle_cpu_s": self.idle_cpu_s,
            "finishes": [(finish.at_s, finish.completion_tokens) for finish in self.finishes],
        }

    def _window(self) -> tuple[tuple[int, float], tuple[int, float]]:
        first, last = (self._reached(share * self.completion_tokens) for share in STEADY)
        return first, last

    def _reached(self, tokens: float) -> tuple[int, float]:
        """The first moment with so many tokens: how many there were then, and when that was.

        Rows that finish in one step of the engine count together.
        """
        finished = 0
        for number, finish in enumerate(self.finishes):
            finished += finish.completion_tokens
            after = self.finishes[number + 1] if number + 1 < len(self.finishes) else None
            if finished >= tokens and (after is None or after.at_s > finish.at_s):
                return finished, finish.at_s
        raise ValueError(f"{tokens} tokens asked of a run that has {finished}")


@dataclass(frozen=True)
class Ratio:
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Ratio:
        """The median of the rounds and their spread."""
        return cls(statistics.median(rounds), min(rounds), max(rounds))


def ratio(runs: Sequence[Run], arm: str, peer: str, figure: str) -> Ratio:
    """Of ``figure``, a property of runs in tokens a second: mean of the arm ÷ mean of the peer in each round.

    A round holds each arm twice, in the order A-B-B-A, so that a machine that grows slower or faster favours
    neither.
    """
    rounds = sorted({run.round for run in runs})
    return Ratio.of(
        [_mean(runs, arm, number, figure) / _mean(runs, peer, number, figure) for number in rounds]
    )


def _mean(runs: Sequence[Run], arm: str, number: int, figure: str) -> float:
    return statistics.fmean(getattr(run, figure) for run in runs if (run.arm, run.round) == (arm, number))
