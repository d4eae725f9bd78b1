"""A raybatch in use for hours: batches that complete, are cancelled, retried, checked row by row and deleted.

All work is paused now and then, and a process killed where that is asked for.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import httpx

from jobs.checker import Verdict
from jobs.echo_cluster import EchoCluster
from jobs.fault_case import PatientTrial, kill, patient
from jobs.trial import ENDED, Json, committed, upload_of

SIZES: Final = (1, 10, 100, 500, 2000)  #: rows of a batch
AT_ONCE: Final = 3  #: batches
FATES: Final = {
    "completed": 6,
    "cancelled": 2,
    "retried": 2,
}  #: what is meant to become of a batch, how often
REFUSED_EVERY: Final = 37  #: rows of a retried batch: one fails whatever is done
TIRED_EVERY: Final = 23  #: rows of a retried batch: one fails until its batch is retried
TIRED_FAILURES: Final = 3  #: the tries of a row in one round
RETRYABLE: Final = "service_unavailable_error"
KILLED: Final = ("engine-child", "engine", "scheduler", "replica")  #: in turn
PAUSE_EVERY_S: Final = 60.0
PAUSE_S: Final = 2.0
LOOK_S: Final = 0.5
NOT_FOUND: Final = 404

Say = Callable[[str], None]


@dataclass
class Tally:
    """What was done, and what the checker said of it."""

    batches: Counter[str] = field(default_factory=Counter)  #: ended, by status; those retried apart
    rows: int = 0
    pauses: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0
    faults: list[str] = field(default_factory=list)

    def judge(self, batch_id: str, verdict: Verdict) -> None:
        self.lost += verdict.lost
        self.duplicated += verdict.duplicated
        self.unexpected += verdict.unexpected
        self.faults += [f"{batch_id}: {fault}" for fault in verdict.faults]


@dataclass
class Begun:
    trial: PatientTrial
    fate: str
    rows: int
    cancel_at: int  #: committed rows
    retried: bool = False


class Use:
    def __init__(self, cluster: EchoCluster, chance: random.Random, kill_every_s: float, say: Say) -> None:
        """``kill_every_s``: between two kills; 0: none."""
        self.tally = Tally()
        self._cluster, self._chance, self._say = cluster, chance, say
        self._kill_every_s = kill_every_s
        self._begun: list[Begun] = []
        self._batches = 0

    def run(self, for_s: float) -> Tally:
        """Until the time is over and every batch that was begun has been checked and deleted."""
        begun_mono = time.monotonic()
        pause_mono, kill_mono = begun_mono + PAUSE_EVERY_S, begun_mono + self._kill_every_s
        while (now_mono := time.monotonic()) < begun_mono + for_s:
            self._begun += [self._begin() for _ in range(AT_ONCE - len(self._begun))]
            if now_mono >= pause_mono:
                self._pause()
                self._say(f"{(now_mono - begun_mono) / 60:.0f} min: {self.tally.rows:,} rows")
                pause_mono += PAUSE_EVERY_S
            if self._kill_every_s and now_mono >= kill_mono:
                self._kill()
                kill_mono += self._kill_every_s
            self._look()
        while self._begun:
            self._look()
        return self.tally

    def _begin(self) -> Begun:
        """A batch of some size, with a fate of its own."""
        (fate,) = self._chance.choices(list(FATES), list(FATES.values()))
        rows = self._chance.choice(SIZES)
        self._batches += 1
        texts = (told(f"{row} of {self._batches}", row, fate) for row in range(rows))
        trial = PatientTrial(self._cluster, upload_of((f"r{row}", text) for row, text in enumerate(texts)))
        return Begun(trial, fate, rows, self._chance.randrange(rows))

    def _pause(self) -> None:
        """For a moment; what runs is finished meanwhile."""
        patient(lambda: self._cluster.pause(True))
        time.sleep(PAUSE_S)
        patient(lambda: self._cluster.pause(False))
        self.tally.pauses += 1

    def _kill(self) -> None:
        role = KILLED[self.tally.kills.total() % len(KILLED)]
        kill(self._cluster, role, signal.SIGKILL)
        self.tally.kills[role] += 1

    def _look(self) -> None:
        self._begun = [begun for begun in self._begun if not self._ended(begun)]
        time.sleep(LOOK_S)

    def _ended(self, begun: Begun) -> bool:
        """Cancel or retry a batch when that is due; check and delete it at the end."""
        batch = begun.trial.look()
        if batch is None:
            return False
        if batch["status"] not in ENDED:
            if begun.fate == "cancelled" and batch["status"] == "in_progress":
                self._cancel(begun, batch)
            return False
        if begun.fate == "retried" and batch["request_counts"]["failed"] > refused(begun.rows):
            self._retry(begun)
            return False
        self._end(begun, batch["status"])
        return True

    def _cancel(self, begun: Begun, batch: Json) -> None:
        if committed(batch) >= begun.cancel_at:
            with contextlib.suppress(
                httpx.HTTPError
            ):  # it ended first, or the API is away: the next look tells
                begun.trial.cancel()

    def _retry(self, begun: Begun) -> None:
        """Again when the engine's process, which counts a row's failures, was killed in between."""
        with contextlib.suppress(httpx.HTTPError):
            self._cluster.post(f"/v1/batches/{begun.trial.batch_id}/retry", json={"error_types": [RETRYABLE]})
            begun.retried = True

    def _end(self, begun: Begun, status: str) -> None:
        self.tally.judge(begun.trial.batch_id, patient(begun.trial.verdict))
        self.tally.batches["completed after a retry" if begun.retried else status] += 1
        self.tally.rows += begun.rows
        for path in (f"/v1/batches/{begun.trial.batch_id}", f"/v1/files/{begun.trial.file_id}"):
            patient(lambda path=path: self._delete(path))  # type: ignore[misc]

    def _delete(self, path: str) -> None:
        try:
            self._cluster.delete(path)
        except httpx.HTTPStatusError as error:
            if (
                error.response.status_code != NOT_FOUND
            ):  # else an earlier request did it, whose answer was lost
                raise


def told(text: str, row: int, fate: str) -> str:
    """What a row asks for: an echo, or first a failure."""
    if fate == "retried" and row % REFUSED_EVERY == 1:
        return f"[[status=400]] number {text}"
    if fate == "retried" and row % TIRED_EVERY == 0:
        return f"[[status=503 times={TIRED_FAILURES}]] number {text}"
    return f"hello number {text}"


def refused(rows: int) -> int:
    """How many of a retried batch's rows fail whatever is done."""
    return sum("[[status=400]]" in told("", row, "retried") for row in range(rows))
