"""How fast work moves: each batch over the last half minute, each model as a smoothed rate and its spread.

A model has two rates. One is remembered: slow, good for what is handed in next. The other is that of its
present course, the time since the set of its batches last changed: what is left of them goes on as they went
so far, and a few seconds of that tell more than a rate other rows left behind.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from raybatch.core.estimate import BIN_S, Doubt
from raybatch.core.model import Batch, BatchStatus, ModelRate

SPAN_S: Final = 30.0
NEWEST_WEIGHT: Final = 0.3  #: of the newest measurement in a rate
COURSE_S: Final = 300.0  #: of its busy time, a course is measured over so much
KNOWN_S: Final = 5.0  #: the remembered rate counts as much as so many seconds of a course
DEVIATION_ASSUMED: Final = 0.2  #: of a rate that was never held against another one


@dataclass(frozen=True, slots=True)
class BatchPace:
    rows_per_s: float = 0.0  #: committed over the last half minute
    tokens_per_s: float = 0.0  #: completion tokens


@dataclass(slots=True)
class _Bin:
    """What a model's engines came to while they were busy, since the last measurement."""

    busy_s: float = 0.0
    tokens: float = 0.0  #: expected ones of the rows that finished
    rows: int = 0


@dataclass(frozen=True, slots=True)
class _Crowd:
    """Rows that were committed together, or between two looks; figures since the course began."""

    busy_s: float
    tokens: float  #: expected ones of the rows that finished
    rows: int


@dataclass(slots=True)
class _Course:
    """What a model's batches came to since the set of them last changed, by their engines' busy time."""

    rounds: frozenset[str]  #: ids of its batches, each with its round
    busy_s: float = 0.0
    tokens: float = 0.0
    rows: int = 0
    running: int = 0  #: rows in flight at the last look
    gap_s: float = 0.0  #: the longest between two crowds
    crowds: deque[_Crowd] = field(default_factory=deque)

    def note(self) -> None:
        """Call at every look, once its rows are counted."""
        if self.rows > (self.crowds[-1].rows if self.crowds else 0):
            if self.crowds:
                self.gap_s = max(self.gap_s, self.busy_s - self.crowds[-1].busy_s)
            self.crowds.append(_Crowd(self.busy_s, self.tokens, self.rows))
        while len(self.crowds) > 2 and self.busy_s - self.crowds[1].busy_s > COURSE_S:
            self.crowds.popleft()

    @property
    def span_s(self) -> float:
        """Over which it is measured: a rate is true from one crowd to another. A silence longer than ever
        is a slow crowd.
        """
        if len(self.crowds) < 2:
            return 0.0
        return max(self.crowds[-1].busy_s, self.busy_s - self.gap_s) - self.crowds[0].busy_s

    @property
    def tokens_per_s(self) -> float:
        return (self.crowds[-1].tokens - self.crowds[0].tokens) / self.span_s

    @property
    def rows_per_s(self) -> float:
        return (self.crowds[-1].rows - self.crowds[0].rows) / self.span_s

    def doubt(self) -> Doubt:
        """Of ``running`` rows whose lengths vary at random, the last one takes so many times an average row's
        time (which is Little's law).
        """
        row_s = self.running / self.rows_per_s
        return Doubt(self.gap_s / self.span_s / 2, row_s * math.log(max(1, self.running)))


class Pace:
    def __init__(self) -> None:
        self._samples: dict[str, deque[tuple[float, int, int]]] = {}
        self._seen: dict[str, Batch] = {}  #: active at the last look
        self._seen_mono = 0.0
        self._bins: dict[str, _Bin] = {}
        self._courses: dict[str, _Course] = {}

    def batch(self, batch: Batch) -> BatchPace:
        samples = self._samples.get(batch.batch_id)
        if not samples or batch.status is not BatchStatus.IN_PROGRESS:
            return BatchPace()
        span_s = samples[-1][0] - samples[0][0]
        if span_s <= 0:
            return BatchPace()
        return BatchPace((samples[-1][1] - samples[0][1]) / span_s, (samples[-1][2] - samples[0][2]) / span_s)

    def rates(self, known: Mapping[str, ModelRate]) -> dict[str, ModelRate]:
        """By model: the remembered ones, led by what the present courses show."""
        found = dict(known)
        for model, course in self._measured_courses():
            before = known.get(model)
            if before is None or before.tokens_per_s <= 0:
                rate = course.tokens_per_s, DEVIATION_ASSUMED, course.rows_per_s
                found[model] = ModelRate(model, *rate, time.time())
            else:
                weight = course.span_s / (course.span_s + KNOWN_S)
                led = before.tokens_per_s + weight * (course.tokens_per_s - before.tokens_per_s)
                found[model] = replace(before, tokens_per_s=led)
        return found

    def doubts(self) -> dict[str, Doubt]:
        """By model, of the rates of the present courses."""
        return {model: course.doubt() for model, course in self._measured_courses()}

    def _measured_courses(self) -> list[tuple[str, _Course]]:
        return [(model, course) for model, course in self._courses.items() if course.span_s > 0]

    def note(
        self,
        active: Iterable[Batch],
        ended: Iterable[Batch],
        busy: Mapping[str, int],
        rates: dict[str, ModelRate],
        now_mono: float,
    ) -> tuple[ModelRate, ...]:
        """Call once or twice a second. Answers the rates that were measured anew.

        ``ended``: batches active at the last call and no longer. ``busy``: rows in flight, of the
        models that have some.
        """
        batches = {batch.batch_id: batch for batch in active}
        passed_s = now_mono - self._seen_mono if self._seen_mono else 0.0
        self._keep_courses(batches)
        for model, running in busy.items():
            self._bins.setdefault(model, _Bin()).busy_s += passed_s
            if model in self._courses:
                self._courses[model].busy_s += passed_s
                self._courses[model].running = running
        for batch in (*batches.values(), *ended):
            self._count(batch)
        for course in self._courses.values():
            course.note()
        self._keep_samples(batches, now_mono)
        self._seen, self._seen_mono = batches, now_mono
        return tuple(self._measured(model, rates.get(model)) for model in self._full_bins())

    @property
    def seen(self) -> Collection[str]:
        """Ids of the batches that were active at the last look."""
        return self._seen

    def _count(self, batch: Batch) -> None:
        before = self._seen.get(batch.batch_id)
        if before is None:
            return
        finished = {span.model: span.finished for span in before.by_model}
        for span in batch.by_model:
            rows = max(0, span.finished - finished.get(span.model, 0))
            if span.model in self._bins:
                counted = self._bins[span.model]
                counted.rows += rows
                counted.tokens += rows * span.expected_row_tokens
            if span.model in self._courses:
                course = self._courses[span.model]
                course.rows += rows
                course.tokens += rows * span.expected_row_tokens

    def _keep_courses(self, batches: Mapping[str, Batch]) -> None:
        """A new one wherever a batch came, went, was paused or was opened for another round."""
        running: dict[str, set[str]] = {}
        for batch in batches.values():
            if batch.status is BatchStatus.IN_PROGRESS and batch.paused_at is None:
                for span in batch.by_model:
                    if span.finished < span.count:
                        running.setdefault(span.model, set()).add(f"{batch.batch_id} {batch.round}")
        for model in self._courses.keys() - running.keys():
            del self._courses[model]
        for model, rounds in running.items():
            if model not in self._courses or self._courses[model].rounds != rounds:
                self._courses[model] = _Course(frozenset(rounds))

    def _keep_samples(self, batches: dict[str, Batch], now_mono: float) -> None:
        kept = {}
        for batch in batches.values():
            before = self._seen.get(batch.batch_id)
            same_round = before is not None and before.round == batch.round
            samples = self._samples.get(batch.batch_id, deque()) if same_round else deque()
            samples.append((now_mono, batch.finished_rows, batch.tally.usage.completion_tokens))
            while now_mono - samples[0][0] > SPAN_S:
                samples.popleft()
            kept[batch.batch_id] = samples
        self._samples = kept

    def _full_bins(self) -> list[str]:
        return [model for model, counted in self._bins.items() if counted.busy_s >= BIN_S]

    def _measured(self, model: str, known: ModelRate | None) -> ModelRate:
        counted = self._bins.pop(model)
        tokens_per_s, rows_per_s = counted.tokens / counted.busy_s, counted.rows / counted.busy_s
        if known is None or known.tokens_per_s <= 0:
            return ModelRate(model, tokens_per_s, 0.0, rows_per_s, time.time())
        off = abs(tokens_per_s / known.tokens_per_s - 1)
        return ModelRate(
            model,
            _smoothed(known.tokens_per_s, tokens_per_s),
            _smoothed(known.deviation, min(off, 1.0)),
            _smoothed(known.rows_per_s, rows_per_s),
            time.time(),
        )


def _smoothed(known: float, newest: float) -> float:
    return known + NEWEST_WEIGHT * (newest - known)
