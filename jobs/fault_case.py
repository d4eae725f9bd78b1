"""What a fault did to a batch: the checker's counters, work done again, the time until it was mended."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from jobs.echo_cluster import EchoCluster, until
from jobs.trial import ENDED, ENDPOINT, Trial, committed, requests
from raybatch.errors import RaybatchError

ROWS: Final = 3000
ENGINES: Final = 2
ROWS_PER_S: Final = 200.0  #: of each engine
MENDED_MAX_S: Final = 180.0
ASK_AGAIN_S: Final = 0.2
#: short waits, so that a run takes minutes; engines start again without a pause however often they died
SETTINGS: Final = (
    f"engine.replicas={ENGINES}",
    "engine.flush_s=0.25",
    "engine.hang_s=8",
    "scheduler.compaction_fan_in=4",
    "scheduler.lease_s=6",
    "scheduler.restarts_free=1000",
)


@dataclass(frozen=True)
class Outcome:
    fault: str  #: F1 to F19
    case: str
    rows: int = 0
    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0
    again: int = 0  #: rows whose result is not of their first lease
    redone: int = 0  #: rows that an engine began, beyond one time each
    recovery_s: float | None = None  #: from the fault until what it broke worked again
    wrong: tuple[str, ...] = ()  #: the checker's words, and whatever else did not hold

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.unexpected or self.wrong)


class PatientTrial(Trial):
    """Uploads and creates again until it is answered, as a client with an ``Idempotency-Key`` may."""

    def __init__(self, cluster: EchoCluster, upload: bytes, uploaded: Callable[[], object] = bool) -> None:
        """``uploaded``: called between upload and create."""
        files = {"file": ("requests.jsonl", upload)}
        file = patient(lambda: cluster.post("/v1/files", files=files, data={"purpose": "batch"}))
        uploaded()
        asked = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
        key = {"Idempotency-Key": uuid.uuid4().hex}
        batch = patient(lambda: cluster.post("/v1/batches", json=asked, headers=key))
        self._follow(cluster, upload, file["id"], batch["id"])

    @classmethod
    def known(cls, cluster: EchoCluster, upload: bytes, file_id: str, batch_id: str) -> PatientTrial:
        """Of a batch that another client made."""
        trial = cls.__new__(cls)
        trial._follow(cluster, upload, file_id, batch_id)
        return trial

    def twins(self) -> int:
        """Batches made from its file, itself included."""
        batches = patient(lambda: self._cluster.get("/v1/batches", limit=100))["data"]
        return sum(batch["input_file_id"] == self.file_id for batch in batches)

    def _follow(self, cluster: EchoCluster, upload: bytes, file_id: str, batch_id: str) -> None:
        self._cluster, self._upload = cluster, upload
        self.file_id, self.batch_id = file_id, batch_id


@dataclass
class Story:
    """One batch with a fault in it, and what else has to hold."""

    cluster: EchoCluster
    fault: str
    case: str
    wrong: list[str] = field(default_factory=list)
    begun_before: int = field(init=False)

    def __post_init__(self) -> None:
        self.begun_before = begun_rows(self.cluster)

    def expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.wrong.append(otherwise)

    def outcome(
        self,
        trial: Trial,
        recovery_s: float | None = None,
        *,
        status: str = "completed",
        again: tuple[int, float] = (0, math.inf),
        redone_max: float = math.inf,
    ) -> Outcome:
        """Once the batch, the only one of this story, ended: its rows as the checker judges them.

        ``again``: the fewest and the most rows that were leased again.
        """
        ended = trial.wait_ended()
        self.expect(ended["status"] == status, f"the batch is {ended['status']}, not {status}")
        verdict = patient(trial.verdict)
        counted = "SELECT count(*) AS rows FROM results WHERE attempt > 1"
        ran_again = patient(lambda: self.cluster.sql(trial.batch_id, counted))[0]["rows"]
        least, most = again
        self.expect(least <= ran_again <= most, f"{ran_again} rows were leased again, not {least} to {most}")
        redone = max(0, begun_rows(self.cluster) - self.begun_before - committed(ended))
        self.expect(redone <= redone_max, f"{redone} rows were begun again, more than {redone_max}")
        return Outcome(
            self.fault,
            self.case,
            ended["request_counts"]["total"],
            verdict.lost,
            verdict.duplicated,
            verdict.unexpected,
            ran_again,
            redone,
            None if recovery_s is None else round(recovery_s, 1),
            (*self.wrong, *verdict.faults),
        )


def begun_rows(cluster: EchoCluster) -> int:
    """By all engines of the cluster so far."""
    tally = Path(cluster.settings.echo.tally)
    return tally.stat().st_size if tally.exists() else 0


def window_rows(cluster: EchoCluster) -> int:
    """That one engine runs at once."""
    return cluster.settings.echo.concurrency


def begun(cluster: EchoCluster, rows: int, share: float = 0.3) -> Trial:
    """A batch of which about a share is committed, on engines that are all ready."""
    until(lambda: cluster.ready_engines() >= ENGINES, MENDED_MAX_S, "the engines are not ready")
    trial = PatientTrial(cluster, requests(rows))
    trial.wait_committed(round(share * rows))
    return trial


def engines_back_s(cluster: EchoCluster, since_mono: float, lost_pid: int) -> float:
    """Until as many engines as there were are ready, none of them with the process that was killed."""

    def back() -> bool:
        try:
            engines = overview(cluster)["engines"]
        except RaybatchError:
            return False
        ready = [engine for engine in engines if engine["phase"] == "ready" and not engine["lost"]]
        whole = [engine for engine in ready if engine["child_pids"] and lost_pid not in _pids(engine)]
        return len(whole) >= ENGINES

    until(back, MENDED_MAX_S, "the engines are not back")
    return time.monotonic() - since_mono


def rows_back_s(trial: Trial, since_mono: float, rows: int) -> float:
    """Until more than those rows are committed."""
    trial.wait(lambda batch: committed(batch) > rows or batch["status"] in ENDED, "no row came in any more")
    return time.monotonic() - since_mono


def kill(cluster: EchoCluster, role: str, number: signal.Signals = signal.SIGKILL) -> int:
    """Send the oldest process of a role a signal, once there is one; answers its pid."""
    sent: list[int] = []

    def send() -> bool:
        for pid in cluster.pids(role)[:1]:
            with contextlib.suppress(ProcessLookupError):  # it died of something else just now
                os.kill(pid, number)
                sent.append(pid)
        return bool(sent)

    until(send, MENDED_MAX_S, f"there is no {role}")
    return sent[0]


def overview(cluster: EchoCluster) -> dict[str, Any]:
    """Raises RaybatchError while nobody answers."""
    found: dict[str, Any] = cluster.admin("overview")["overview"]
    return found


def log_entries(cluster: EchoCluster, kind: str) -> list[dict[str, Any]]:
    """Of the server's whole log, oldest first."""
    entries = patient(lambda: cluster.admin("log"))
    return [entry for entry in entries if entry["kind"] == kind]


def _pids(engine: dict[str, Any]) -> tuple[int, ...]:
    return (engine["pid"], *engine["child_pids"])


def patient(ask: Callable[[], Any]) -> Any:
    """The answer, asked for again while the API is away. Raises the last error when that takes too long."""
    deadline_mono = time.monotonic() + MENDED_MAX_S
    while True:
        try:
            return ask()
        except (httpx.HTTPError, RaybatchError):
            if time.monotonic() > deadline_mono:
                raise
            time.sleep(ASK_AGAIN_S)
