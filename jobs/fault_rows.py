"""F10: who is to blame when engines die. A kill from outside blames nobody; a poison row, itself alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from jobs.checker import POISON
from jobs.echo_cluster import EchoCluster
from jobs.fault_case import Outcome, PatientTrial, Story, begun, engines_back_s, kill, log_entries
from jobs.trial import upload_of

KILLS: Final = 5
DEATHS_MAX: Final = 9  #: of engines, for one poison row


def outside_kills(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    story = Story(cluster, "F10", f"{KILLS} kills of engines from outside")
    trial = begun(cluster, rows, share=0.1)
    before = len(log_entries(cluster, "suspected"))
    killed_mono = time.monotonic()
    for _ in range(KILLS):
        killed_mono = time.monotonic()
        engines_back_s(cluster, killed_mono, kill(cluster, "engine-child"))
    recovery_s = time.monotonic() - killed_mono
    suspected = log_entries(cluster, "suspected")[before:]
    story.expect(not suspected, f"rows are blamed: {suspected}")
    yield story.outcome(trial, recovery_s)


def one_poison(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    yield poisoned(cluster, rows, (rows // 3,))


def two_poisons(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    yield poisoned(cluster, rows, (rows // 3, rows // 3 + 2))


def poisoned(cluster: EchoCluster, rows: int, poisons: tuple[int, ...]) -> Outcome:
    """All other rows complete, each poison becomes a dead letter. ``recovery_s``: of the whole batch."""
    story = Story(cluster, "F10", f"poison rows: {len(poisons)} in {rows:,}")
    before = len(log_entries(cluster, "died"))
    told = {row: f"{POISON} number {row}" for row in poisons}
    started_mono = time.monotonic()
    trial = PatientTrial(
        cluster, upload_of((f"r{row}", told.get(row, f"hello number {row}")) for row in range(rows))
    )
    counts = trial.wait_ended()["request_counts"]
    recovery_s = time.monotonic() - started_mono
    deaths = len(log_entries(cluster, "died")) - before
    story.expect(
        (counts["completed"], counts["failed"]) == (rows - len(poisons), len(poisons)),
        f"{counts['completed']} results and {counts['failed']} dead letters",
    )
    most = DEATHS_MAX * len(poisons)
    story.expect(deaths <= most, f"engines died {deaths} times, more than {most}")
    story.case += f", {deaths} engine deaths"
    return story.outcome(trial, recovery_s)
