"""How true the time left is that a batch shows: looked at all along the run, held against its real end.

On the echo engine, with rows of one length (steady) and of very different lengths (ragged). The engine's
speed is the same in both; what differs is how well a few rows tell of the others.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from jobs.echo_cluster import EchoCluster
from jobs.runs import Ratio
from jobs.trial import ENDED, Trial, upload_of

SHARES: Final = (0.1, 0.25, 0.5)  #: of a run: when the time left is held against the truth
WORKLOADS: Final = ("steady", "ragged")
STEP_MS: Final = 50.0  #: long, so that a busy machine hardly slows the engine down
WORDS: Final = 25  #: of a row, on average
WORDS_MAX: Final = 200  #: of the longest ragged row
LOOK_S: Final = 0.25
GOAL: Final = 0.1  #: median error after a tenth of a steady run
NO_ANSWER: Final = 1.0  #: the error of a time left that is not told

Say = Callable[[str], None]


@dataclass(frozen=True)
class Look:
    at_s: float  #: since the batch began to run
    p50_s: float | None  #: None: not told yet
    p90_s: float | None


@dataclass(frozen=True)
class Course:
    """One batch from its first row to its last, and what was told meanwhile."""

    workload: str
    number: int
    rows: int
    took_s: float
    looks: tuple[Look, ...]

    def told(self, share: float) -> Look:
        """What one saw at that share of the run."""
        at_s = share * self.took_s
        return next((look for look in reversed(self.looks) if look.at_s <= at_s), Look(at_s, None, None))

    def error(self, share: float) -> float:
        """Of the median guess, as a share of the time that was really left."""
        look = self.told(share)
        left_s = self.took_s - look.at_s
        return NO_ANSWER if look.p50_s is None else abs(look.p50_s - left_s) / left_s

    def in_band(self, share: float) -> bool:
        """It ended within what nine of ten finishes are to beat."""
        look = self.told(share)
        return look.p90_s is not None and self.took_s - look.at_s <= look.p90_s


def settings_for(rows_per_s: float) -> tuple[str, ...]:
    """Of an echo engine that answers so many rows of ``WORDS`` words a second, steps of equal length."""
    concurrency = max(1, round(rows_per_s * WORDS * STEP_MS / 1000))
    return (f"echo.alpha_ms={STEP_MS}", f"echo.concurrency={concurrency}")


def measure(cluster: EchoCluster, rows: int, rounds: int, say: Say) -> list[Course]:
    """Every second round in reverse order, so that neither workload always comes after the other."""
    done = []
    for number in range(rounds):
        for workload in WORKLOADS if number % 2 == 0 else reversed(WORKLOADS):
            course = _run(cluster, workload, number, rows)
            done.append(course)
            errors = ", ".join(f"{course.error(share):.1%} after {share:.0%}" for share in SHARES)
            say(f"{workload} {number + 1}: {course.took_s:.0f} s, off by {errors}")
    return done


def errors(courses: list[Course], workload: str, share: float) -> list[float]:
    return [course.error(share) for course in courses if course.workload == workload]


def band_share(courses: list[Course], workload: str) -> float:
    """How often the end lay inside the band, over all looks at ``SHARES``."""
    mine = [course for course in courses if course.workload == workload]
    return statistics.fmean(course.in_band(share) for course in mine for share in SHARES)


def report(courses: list[Course]) -> dict[str, Any]:
    """As it is written to JSON."""
    return {
        "metric": "error of the median time left ÷ the time really left, after a share of the run",
        "ratio": {
            f"{workload} after {share:.0%}": Ratio.of(errors(courses, workload, share))
            for workload in WORKLOADS
            for share in SHARES
        },
        "arms": {workload: {"in_band": band_share(courses, workload)} for workload in WORKLOADS},
        "goal": {"steady after 10%": GOAL},
        "runs": [asdict(course) for course in courses],
    }


def _run(cluster: EchoCluster, workload: str, number: int, rows: int) -> Course:
    trial = Trial(cluster, upload_of(_told(workload, number, rows)))
    seen: list[tuple[float, Look]] = []
    while True:
        asked_at = time.time()
        batch = trial.look() or {}
        if batch.get("status") in ENDED:
            break
        if batch.get("status") == "in_progress":
            eta = batch["raybatch"]["eta"] or {}
            seen.append((asked_at, Look(0.0, eta.get("p50_s"), eta.get("p90_s"))))
        time.sleep(LOOK_S)
    kept = cluster.batch(trial.batch_id)
    if kept.in_progress_at is None or kept.completed_at is None or kept.tally.completed < rows:
        raise AssertionError(f"{trial.batch_id} went wrong: {kept.status}, {kept.tally}")
    began_at = kept.in_progress_at
    looks = tuple(Look(at - began_at, look.p50_s, look.p90_s) for at, look in seen)
    return Course(workload, number, rows, kept.completed_at - began_at, looks)


def _told(workload: str, number: int, rows: int) -> Iterator[tuple[str, str]]:
    """What the user says in each row; the engine answers with it, a step for every word."""
    chance = random.Random(f"{workload} {number}")
    for row in range(rows):
        words = WORDS if workload == "steady" else min(WORDS_MAX, 1 + int(chance.expovariate(1 / WORDS)))
        yield f"r{row}", " ".join([f"{row}", *("word" for _ in range(words - 2))])
