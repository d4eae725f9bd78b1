"""P5, the control plane: rows a second from the first byte handed in to the last result in its owner's hands.

A row costs nothing, so all that is timed is what surrounds it: accepting, handing out, committing, giving
back. Beside raybatch run Celery with Redis and Procrastinate with PostgreSQL under the same promise: what was
accepted is on disk, a row counts as done only after it ran, and its result is fsynced before that.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from jobs.echo_cluster import echo_cluster, until
from jobs.queues_arms import CeleryArm, Load, ProcrastinateArm, Queue, queue_arm
from jobs.runs import Ratio
from jobs.trial import Trial, requests

RAYBATCH: Final = "raybatch"
ACCEPTED: Final = "accepted"  #: the last row is in the other's hands
TAKEN_IN: Final = "taken in"  #: every line was checked; from here on rows are leased
COMMITTED: Final = "committed"  #: the last row is
DOWNLOADED: Final = "downloaded"  #: every result is in memory of whoever asked for it
STAGES: Final = (ACCEPTED, TAKEN_IN, COMMITTED, DOWNLOADED)
WARM_UP_ROWS: Final = 200
RUN_MAX_S: Final = 600.0
LOOK_S: Final = 0.1

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    arm: str
    round: int
    rows: int
    stages_s: dict[str, float]  #: since the first byte, in their order
    load: float  #: processes that wanted to run on this machine at the end, in the last minute

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.stages_s[DOWNLOADED]


@dataclass(frozen=True)
class Sizes:
    rows: int  #: of raybatch's runs
    peer_rows: int  #: of the others', who need longer for each
    engines: int  #: of raybatch
    load: Load  #: of the others

    def rows_of(self, arm: str) -> int:
        return self.rows if arm == RAYBATCH else self.peer_rows


def measure(arms: list[str], sizes: Sizes, rounds: int, say: Say) -> list[Run]:
    """Every second round in reverse. Raises AssertionError when a result is missing or wrong."""
    runs = []
    for number in range(rounds):
        for name in arms if number % 2 == 0 else reversed(arms):
            rows = sizes.rows_of(name)
            run = Run(name, number, rows, ARMS[name](rows, sizes), os.getloadavg()[0])
            told = ", ".join(f"{stage} {at_s:.2f}" for stage, at_s in run.stages_s.items())
            say(f"round {number + 1}: {name}, {rows:,} rows: {run.rows_per_s:,.0f} rows/s ({told} s)")
            runs.append(run)
    return runs


def report(runs: list[Run], sizes: Sizes) -> dict[str, Any]:
    """As it is written to JSON."""
    arms = list(dict.fromkeys(run.arm for run in runs))
    return {
        "metric": "P5 control plane: rows/s from first byte to last result; raybatch's ÷ each other's",
        "ratio": {
            f"÷ {peer}": Ratio.of(
                [_rate(runs, RAYBATCH, number) / _rate(runs, peer, number) for number in _rounds(runs)]
            )
            for peer in arms
            if peer != RAYBATCH and RAYBATCH in arms
        },
        "arms": {arm: Ratio.of([run.rows_per_s for run in runs if run.arm == arm]) for arm in arms},
        "sizes": sizes,
        "runs": [asdict(run) | {"rows_per_s": run.rows_per_s} for run in runs],
    }


def mean_stages(runs: list[Run]) -> Iterator[tuple[str, float, float]]:
    """Of one arm: each stage, when it began and when it ended, the means of its runs."""
    begin_s = 0.0
    for stage in runs[0].stages_s:
        end_s = statistics.fmean(run.stages_s[stage] for run in runs)
        yield stage, begin_s, end_s
        begin_s = end_s


def _rounds(runs: list[Run]) -> list[int]:
    return sorted({run.round for run in runs})


def _rate(runs: list[Run], arm: str, number: int) -> float:
    return next(run.rows_per_s for run in runs if (run.arm, run.round) == (arm, number))


def _raybatch(rows: int, sizes: Sizes) -> dict[str, float]:
    with echo_cluster(f"engine.replicas={sizes.engines}") as cluster:
        Trial(cluster, requests(WARM_UP_ROWS)).wait_ended()
        upload = requests(rows)
        begun_at = time.time()
        trial = Trial(cluster, upload)
        accepted_at = time.time()
        ended = trial.wait_ended()
        cluster.content(ended["output_file_id"])
        downloaded_at = time.time()
        batch = cluster.batch(trial.batch_id)
        assert batch.in_progress_at is not None
        assert batch.completed_at is not None
        if faults := trial.verdict().faults:
            raise AssertionError(f"{trial.batch_id} went wrong: {faults}")
    return {
        ACCEPTED: accepted_at - begun_at,
        TAKEN_IN: batch.in_progress_at - begun_at,
        COMMITTED: batch.completed_at - begun_at,
        DOWNLOADED: downloaded_at - begun_at,
    }


def _queue(kind: type[Queue]) -> Callable[[int, Sizes], dict[str, float]]:
    def run(rows: int, sizes: Sizes) -> dict[str, float]:
        with queue_arm(kind, sizes.load) as arm:
            arm.submit(WARM_UP_ROWS)
            until(lambda: arm.results() == WARM_UP_ROWS, RUN_MAX_S, "the first rows have no results")
            stages_s: dict[str, float] = {}
            arm.make_ready(rows)
            begun_mono = time.monotonic()
            arm.put_in()

            def committed() -> bool:
                if ACCEPTED not in stages_s and arm.submitted():
                    stages_s[ACCEPTED] = time.monotonic() - begun_mono
                return arm.results() == WARM_UP_ROWS + rows

            until(committed, RUN_MAX_S, f"{rows:,} rows have no results", LOOK_S)
            stages_s[COMMITTED] = time.monotonic() - begun_mono
            found = arm.answers()
            stages_s[DOWNLOADED] = time.monotonic() - begun_mono
            if found.keys() != set(range(WARM_UP_ROWS + rows)):
                raise AssertionError(f"{kind.__name__} has results of {len(found):,} rows only")
        return {ACCEPTED: stages_s[COMMITTED]} | stages_s

    return run


ARMS: Final[dict[str, Callable[[int, Sizes], dict[str, float]]]] = {
    RAYBATCH: _raybatch,
    "Celery + Redis": _queue(CeleryArm),
    "Procrastinate + PostgreSQL": _queue(ProcrastinateArm),
}
