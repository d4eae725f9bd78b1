"""What `raybatch bench` has seen, and what that means for more rows of the same shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

STEADY: Final = (0.1, 0.9)  #: of the tokens: start and tail of a short run say nothing about a long one
BINS: Final = 40
BISECTIONS: Final = 40  #: a moment to a billionth of the run


@dataclass(frozen=True)
class Finish:
    """A row's end."""

    began_s: float  #: since the first row began, as is the next
    at_s: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Sample:
    """One look at the machine while rows ran."""

    at_s: float
    rss_bytes: dict[str, int]  #: by role of process
    gpu_memory_bytes: int | None = None  #: None: there is no card that tells
    temperature_c: int | None = None
    power_w: float | None = None


@dataclass(frozen=True)
class Figures:
    finishes: tuple[Finish, ...]  #: in the order of time, at least one
    samples: tuple[Sample, ...]

    @property
    def wall_s(self) -> float:
        return self.finishes[-1].at_s

    @property
    def completion_tokens(self) -> int:
        return sum(one.completion_tokens for one in self.finishes)

    @property
    def prompt_tokens(self) -> int:
        return sum(one.prompt_tokens for one in self.finishes)

    @property
    def tokens_per_s(self) -> float:
        """Output tokens, start and tail included."""
        return self.completion_tokens / self.wall_s

    @property
    def steady_tokens_per_s(self) -> float:
        """Without start and tail."""
        low_s, high_s = (self._moment(share * self.completion_tokens) for share in STEADY)
        return (STEADY[1] - STEADY[0]) * self.completion_tokens / (high_s - low_s)

    def tokens_by(self, at_s: float) -> float:
        """Output tokens by then. A row's come evenly from its start to its end: the rows of one wave end
        together, and their ends alone would show a rate that no longer batch keeps.
        """
        return sum(one.completion_tokens * _share(one, at_s) for one in self.finishes)

    def _moment(self, tokens: float) -> float:
        """When there were so many."""
        low_s, high_s = 0.0, self.wall_s
        for _ in range(BISECTIONS):
            middle_s = (low_s + high_s) / 2
            low_s, high_s = (low_s, middle_s) if self.tokens_by(middle_s) >= tokens else (middle_s, high_s)
        return high_s

    def seconds_for(self, rows: int) -> float:
        """For so many rows like these, at the steady rate."""
        return rows * self.completion_tokens / len(self.finishes) / self.steady_tokens_per_s

    def rate_over_time(self) -> list[tuple[float, float]]:
        """Seconds, and the output tokens a second in the stretch before."""
        width_s = self.wall_s / BINS
        reached = [self.tokens_by(place * width_s) for place in range(BINS + 1)]
        return [
            ((place + 1) * width_s, (after - before) / width_s)
            for place, (before, after) in enumerate(pairwise(reached))
        ]

    def tokens_per_joule(self) -> float | None:
        """Output tokens, by the cards' own power; None where none tells."""
        watts = [sample.power_w for sample in self.samples if sample.power_w is not None]
        return self.tokens_per_s / (sum(watts) / len(watts)) if sum(watts) else None


def _share(row: Finish, at_s: float) -> float:
    """Of its time that had passed by then."""
    if at_s >= row.at_s:
        return 1.0
    return max(0.0, (at_s - row.began_s) / (row.at_s - row.began_s))


def peak_by_role(samples: Sequence[Sample]) -> dict[str, int]:
    """The highest of each role."""
    roles = sorted({role for sample in samples for role in sample.rss_bytes})
    return {role: max(sample.rss_bytes.get(role, 0) for sample in samples) for role in roles}
