"""P2: what barriers cost, between batches and between chunks of one.

On the echo engine, whose steps take their time, with rows of very different lengths. Several batches at once
are held against one batch of all their rows; and beside both runs the usual loop, which hands a chunk to the
same engine, waits for all of it, and takes the next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec

from jobs.echo_cluster import EchoCluster
from jobs.prompts import echoes
from jobs.runs import Ratio
from jobs.trial import ENDPOINT, Trial, request, upload_of
from raybatch.config import EchoSettings
from raybatch.engine import echo

TOGETHER: Final = "batches together"
ONE: Final = "one batch"
LOOP: Final = "chunk by chunk"
STRAIGHT: Final = "engine alone"
ARMS: Final = (TOGETHER, ONE, LOOP, STRAIGHT)
WARM_UP_ROWS: Final = 50
TIMES_SQL: Final = """
SELECT epoch_us(started_at) / 1e6 AS started_at, epoch_us(finished_at) / 1e6 AS finished_at FROM results"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    arm: str
    round: int
    wall_s: float  #: from the first creation to the last completion; of the engine's own, from call to answer
    ideal_s: float  #: as many rows as may run, all the time
    occupancy: float | None  #: rows running ÷ those that may, until the last row began; None: not seen

    @property
    def efficiency(self) -> float:
        return self.ideal_s / self.wall_s


@dataclass(frozen=True)
class Sizes:
    batches: int
    rows: int  #: of each


def measure(cluster: EchoCluster, sizes: Sizes, rounds: int, say: Say) -> list[Run]:
    """Every second round in reverse. Raises AssertionError when an answer is not what it must be."""
    Trial(cluster, upload_of(echoes(WARM_UP_ROWS, seed=-1))).wait_ended()  # warms up
    return [
        _run(cluster, sizes, arm, number, say)
        for number in range(rounds)
        for arm in (ARMS if number % 2 == 0 else reversed(ARMS))
    ]


def report(runs: list[Run], sizes: Sizes, settings: EchoSettings) -> dict[str, Any]:
    """As it is written to JSON."""
    rounds = sorted({run.round for run in runs})
    walls = {(run.arm, run.round): run.wall_s for run in runs}
    return {
        "metric": "P2 barrier loss: time of batches together ÷ one batch of their rows; rows running ÷ most",
        "ratio": {
            name: Ratio.of([walls[arm, number] / walls[peer, number] for number in rounds])
            for name, arm, peer in (
                ("together ÷ one batch", TOGETHER, ONE),
                ("chunk by chunk ÷ together", LOOP, TOGETHER),
                ("together ÷ engine alone", TOGETHER, STRAIGHT),
            )
        },
        "arms": {
            arm: {
                "efficiency": Ratio.of([run.efficiency for run in runs if run.arm == arm]),
                "occupancy": _spread([run.occupancy for run in runs if run.arm == arm]),
            }
            for arm in ARMS
        },
        "sizes": sizes,
        "echo": settings,
        "runs": [asdict(run) | {"efficiency": run.efficiency} for run in runs],
    }


def occupancy(times: Sequence[tuple[float, float]], most: int) -> float:
    """Of rows that began and ended then: how many ran, ``most`` at the most, until the last one began ÷ most.

    Rows of a window beyond those that run only wait within the engine, so they do not count.
    """
    until = max(begin for begin, _ in times)
    changes = sorted([(begin, 1) for begin, _ in times] + [(end, -1) for _, end in times if end < until])
    running, busy, last = 0, 0.0, changes[0][0]
    for at, change in changes:
        busy += min(running, most) * (at - last)
        running, last = running + change, at
    return busy / (most * (until - changes[0][0]))


def _run(cluster: EchoCluster, sizes: Sizes, arm: str, number: int, say: Say) -> Run:
    settings = cluster.settings.echo
    pairs = echoes(sizes.batches * sizes.rows, number)
    pieces = [pairs[first : first + sizes.rows] for first in range(0, len(pairs), sizes.rows)]
    seen = None
    if arm in (TOGETHER, ONE):
        uploads = [upload_of(piece) for piece in (pieces if arm == TOGETHER else [pairs])]
        wall_s, seen = _batches(cluster, uploads)
    else:
        wall_s = asyncio.run(_straight_s(settings, pieces if arm == LOOP else [pairs]))
    step_s = (settings.alpha_ms + settings.beta_ms * settings.concurrency) / 1000
    tokens = sum(len(told.split()) + 1 for _, told in pairs)  # "echo:" and its words
    run = Run(arm, number, wall_s, tokens * step_s / settings.concurrency, seen)
    say(f"round {number + 1}: {arm} {wall_s:.1f} s, {run.efficiency:.3f} of ideal")
    return run


def _batches(cluster: EchoCluster, uploads: list[bytes]) -> tuple[float, float]:
    """How long all took, and how full the engine was."""
    trials = [Trial(cluster, upload) for upload in uploads]
    for trial in trials:
        if faults := trial.verdict().faults:
            raise AssertionError(f"{trial.batch_id} went wrong: {faults}")
    batches = [cluster.batch(trial.batch_id) for trial in trials]
    times = [
        (row["started_at"], row["finished_at"])
        for trial in trials
        for row in cluster.sql(trial.batch_id, TIMES_SQL)
    ]
    completed_at = [batch.completed_at for batch in batches if batch.completed_at is not None]
    wall_s = max(completed_at) - min(batch.created_at for batch in batches)
    return wall_s, occupancy(times, cluster.settings.echo.concurrency)


async def _straight_s(settings: EchoSettings, pieces: list[list[tuple[str, str]]]) -> float:
    """Each piece at once, and the next one when all of it is answered."""
    engine = echo.EchoEngine(echo.EchoSettings(**asdict(settings)))
    await engine.start()
    try:
        bodies = [
            [msgspec.json.encode(request(custom_id, told)["body"]) for custom_id, told in piece]
            for piece in pieces
        ]
        started_mono = time.monotonic()
        for piece in bodies:
            replies = await asyncio.gather(
                *(engine.generate(ENDPOINT, body, str(number)) for number, body in enumerate(piece))
            )
            assert all(reply.status == 200 for reply in replies)
        return time.monotonic() - started_mono
    finally:
        await engine.stop()


def _spread(figures: list[float | None]) -> Ratio | None:
    known = [figure for figure in figures if figure is not None]
    return Ratio.of(known) if known else None
