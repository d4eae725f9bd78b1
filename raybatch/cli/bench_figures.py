"""What `raybatch bench` has seen, and what that means for more rows of the same shape."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

STEADY: Final = (0.1, 0.9)  #: of the tokens: start and tail of a short run say nothing about a long one
BINS: Final = 40


@dataclass(frozen=True)
class Finish:
    """A row's end."""

    at_s: float  #: since the first row began
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
        """Without start and tail; the whole run's where it was too short to have a middle."""
        reached = list(itertools.accumulate(one.completion_tokens for one in self.finishes))
        low, high = (
            next(place for place, tokens in enumerate(reached) if tokens >= share * reached[-1])
            for share in STEADY
        )
        span_s = self.finishes[high].at_s - self.finishes[low].at_s
        return (reached[high] - reached[low]) / span_s if span_s > 0 else self.tokens_per_s

    def seconds_for(self, rows: int) -> float:
        """For so many rows like these, at the steady rate."""
        return rows * self.completion_tokens / len(self.finishes) / self.steady_tokens_per_s

    def rate_over_time(self) -> list[tuple[float, float]]:
        """Seconds, and the output tokens a second of the rows that ended in the stretch before."""
        width_s = self.wall_s / BINS
        tokens = [0] * BINS
        for one in self.finishes:
            tokens[min(BINS - 1, int(one.at_s / width_s))] += one.completion_tokens
        return [((place + 1) * width_s, count / width_s) for place, count in enumerate(tokens)]

    def tokens_per_joule(self) -> float | None:
        """Output tokens, by the cards' own power; None where none tells."""
        watts = [sample.power_w for sample in self.samples if sample.power_w is not None]
        return self.tokens_per_s / (sum(watts) / len(watts)) if sum(watts) else None


def peak_by_role(samples: Sequence[Sample]) -> dict[str, int]:
    """The highest of each role."""
    roles = sorted({role for sample in samples for role in sample.rss_bytes})
    return {role: max(sample.rss_bytes.get(role, 0) for sample in samples) for role in roles}
