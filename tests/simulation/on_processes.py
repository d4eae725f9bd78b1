"""The plans of seeds on real processes: ``python -m tests.simulation.on_processes --seeds 20``.

What the simulated world does to its doubles is done to an echo cluster, in the order of the same plan, each
step drawing from the stream of its own that it draws from there: clients come, cancel and pause; schedulers,
engines and chores die; engines are asleep past their leases. What a plan says of single messages, of rows and
of parts goes by without being steered, for real processes do that by themselves; so a seed is one plan here,
and not one history. Clocks are left alone, and some rows are poison, which the world does not know.

Afterwards the checker of ``jobs`` judges every row of every batch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Final
from unittest.mock import patch

import httpx
import msgspec

from jobs.api import clean_up_on_sigterm
from jobs.checker import POISON
from jobs.echo_cluster import EchoCluster, make_cluster, until
from jobs.fault_case import PatientTrial, kill, log_entries, patient
from jobs.trial import upload_of
from raybatch.actors.cluster_facts import read_facts
from raybatch.crash_points import VARIABLE, arm
from tests.simulation.clients import SIZES
from tests.simulation.plan import plan_of

SEEDS: Final = 20
STEPS: Final = 300  #: of a plan; a world plays 700
STEP_S: Final = 0.02  #: what goes by while the processes do the rest of a plan by themselves
ROWS_PER_S: Final = 60.0  #: of each engine
BATCHES_MAX: Final = 5
LEASE_S: Final = 3.0
ASLEEP_S: Final = (1.0, LEASE_S + 3.0)  #: within a lease, and past it
LOOK_S: Final = 1.0  #: between two looks at the metrics
READY_MAX_S: Final = 180.0
SETTINGS: Final = (
    "engine.replicas=2",
    "engine.flush_s=0.25",
    "scheduler.compaction_fan_in=4",
    f"scheduler.lease_s={LEASE_S}",
    f"scheduler.engine_silent_s={LEASE_S + 30}",  # who sleeps is not ended, but wakes and speaks
    "scheduler.restarts_free=1000",
    "ray.dashboard=true",  # whose agent shows the metrics
)
#: where a scheduler dies, unless it is killed from outside
LABELS: Final = ("turn.decided", "journal.written", "journal.synced", "ledger.committed", "turn.remembered")


@dataclass
class Played:
    """What was done in the course of one plan, and what the checker said of it."""

    seed: int
    done: Counter[str] = field(default_factory=Counter)
    batches: Counter[str] = field(default_factory=Counter)  #: by their last status
    rows: int = 0
    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0
    again: int = 0  #: rows whose result is not of their first lease
    released: int = 0  #: entries of the log that tell of leases that ended with rows left
    refused: int = 0  #: slices of parts, at least: a scheduler that dies takes what it just counted along
    took_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.unexpected or self.wrong)


@dataclass
class Begun:
    trial: PatientTrial
    rows: int
    poisoned: bool
    cancelled: bool = False


class Refusals:
    """Of tokens, as the metrics of all schedulers' lives count them; looked at while the block lasts."""

    def __init__(self, cluster: EchoCluster) -> None:
        self._cluster = cluster
        self._seen: dict[str, float] = {}
        self._over = Event()
        self._thread = Thread(target=self._look, daemon=True)

    @property
    def total(self) -> int:
        return round(sum(self._seen.values()))

    def __enter__(self) -> Refusals:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            with contextlib.suppress(httpx.HTTPError, OSError, ValueError):
                for labels, value in self._shown():
                    self._seen[labels] = max(value, self._seen.get(labels, 0.0))

    def _shown(self) -> Iterator[tuple[str, float]]:
        facts = read_facts(self._cluster.home)
        assert facts is not None
        found = Path(facts.ray_temp_dir) / "prom_metrics_service_discovery.json"
        for target in [one for group in json.loads(found.read_text()) for one in group["targets"]]:
            text = httpx.get(f"http://{target}/metrics", timeout=10.0).text
            for labels, value in re.findall(r"^ray_raybatch_stale_commits_total\{(.*)\} (\S+)$", text, re.M):
                yield labels, float(value)


class Processes:
    """One plan, on a cluster that is up; its crash points are armed in ``points``."""

    def __init__(self, cluster: EchoCluster, points: Path, seed: int) -> None:
        self.played = Played(seed)
        self._cluster, self._points = cluster, points
        self._chance = Random()
        self._begun: list[Begun] = []
        self._acts = {
            "clients.creates": self._create,
            "clients.cancels": self._cancel,
            "clients.pauses": self._pause,
            "world.engine_is_born_again": self._kill_engine,
            "world.scheduler_dies": self._kill_scheduler,
            "network.is_cut_somewhere": self._put_engine_to_sleep,
            "chores.run_one": self._kill_chore,
        }

    def play(self, steps: int) -> Played:
        began_mono = time.monotonic()
        released = len(log_entries(self._cluster, "released"))
        until(lambda: self._cluster.ready_engines() >= 2, READY_MAX_S, "the engines are not ready")
        self._chance.seed(self.played.seed)
        self._create()
        for number, name in plan_of(self.played.seed, steps):
            self._chance.seed(self.played.seed * 1_000_003 + number)
            act = self._acts.get(name)
            if act is not None:
                act()
            time.sleep(STEP_S)
        self._end()
        self.played.released = len(log_entries(self._cluster, "released")) - released
        self.played.took_s = round(time.monotonic() - began_mono, 1)
        return self.played

    # -- clients -------------------------------------------------------------------------------------------

    def _create(self) -> None:
        if len(self._begun) >= BATCHES_MAX:
            return
        rows = self._chance.choice(SIZES)
        poison = self._chance.randrange(rows) if rows > 1 and self._chance.random() < 0.15 else None
        mark = f"{self.played.seed}/{len(self._begun)}"
        told = (f"{POISON if row == poison else 'hello'} number {row} of {mark}" for row in range(rows))
        trial = PatientTrial(self._cluster, upload_of((f"r{row}", text) for row, text in enumerate(told)))
        self._begun.append(Begun(trial, rows, poison is not None))
        self._did("batches with a poison row" if poison is not None else "batches")

    def _cancel(self) -> None:
        begun = self._chance.choice(self._begun)
        if begun.poisoned or begun.cancelled or self._chance.random() < 0.5:
            return
        with contextlib.suppress(httpx.HTTPStatusError):  # it has ended
            patient(lambda: self._cancelled(begun))

    def _cancelled(self, begun: Begun) -> None:
        try:
            begun.trial.cancel()
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500:
                return  # it has ended
            raise
        begun.cancelled = True
        self._did("cancels")

    def _pause(self) -> None:
        on = self._chance.random() < 0.5
        patient(lambda: self._cluster.pause(on))
        self._did("pauses" if on else "resumes")

    # -- deaths --------------------------------------------------------------------------------------------

    def _kill_engine(self) -> None:
        role = self._chance.choice(("engine", "engine-child"))
        kill(self._cluster, role)
        self._did(f"kills of {role}")

    def _kill_scheduler(self) -> None:
        label = self._chance.choice((None, *LABELS))
        if label is None:
            kill(self._cluster, "scheduler")
        else:
            arm(self._points, label, self._chance.randint(1, 5))
        self._did("kills of scheduler" if label is None else f"deaths at {label}")

    def _kill_chore(self) -> None:
        if self._chance.random() < 0.1 and (pids := self._cluster.pids("chore")):
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pids[0], signal.SIGKILL)
                self._did("kills of chore")

    def _put_engine_to_sleep(self) -> None:
        asleep_s = self._chance.choice(ASLEEP_S)
        pid = kill(self._cluster, "engine", signal.SIGSTOP)
        try:
            time.sleep(asleep_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._did("sleeps within a lease" if asleep_s < LEASE_S else "sleeps past a lease")

    # -- the end -------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Faults stop; every batch must end, and be what it must be."""
        for armed in self._points.iterdir():
            armed.unlink(missing_ok=True)
        patient(lambda: self._cluster.pause(False))
        for begun in self._begun:
            ended = begun.trial.wait_ended()
            verdict = patient(begun.trial.verdict)
            self.played.again += patient(lambda begun=begun: self._again(begun))
            self.played.batches[ended["status"]] += 1
            self.played.rows += begun.rows
            self.played.lost += verdict.lost
            self.played.duplicated += verdict.duplicated
            self.played.unexpected += verdict.unexpected
            self.played.wrong += [f"{begun.trial.batch_id}: {fault}" for fault in verdict.faults]
            self._expect(begun, ended["status"], ended["request_counts"]["failed"])

    def _again(self, begun: Begun) -> int:
        counted = "SELECT count(*) AS rows FROM results WHERE attempt > 1"
        rows: int = self._cluster.sql(begun.trial.batch_id, counted)[0]["rows"]
        return rows

    def _expect(self, begun: Begun, status: str, failed: int) -> None:
        may = {"completed", "cancelled"} if begun.cancelled else {"completed"}
        if status not in may:
            self.played.wrong.append(f"{begun.trial.batch_id} is {status}")
        if status == "completed" and failed != begun.poisoned:
            self.played.wrong.append(f"{begun.trial.batch_id}: {failed} dead letters, not {begun.poisoned:d}")

    def _did(self, what: str) -> None:
        self.played.done[what] += 1


@contextmanager
def processes() -> Iterator[tuple[EchoCluster, Path]]:
    """A cluster of two engines, with where its crash points are armed."""
    with (
        tempfile.TemporaryDirectory(prefix="raybatch-plans-") as name,
        patch.dict(os.environ, {VARIABLE: name}),
    ):
        cluster = make_cluster(*SETTINGS, rows_per_s=ROWS_PER_S)
        try:
            cluster.up()
            yield cluster, Path(name)
        finally:
            cluster.close()


def play_all(seeds: range, steps: int = STEPS) -> Iterator[Played]:
    """One after the other, on one cluster."""
    with processes() as (cluster, points), Refusals(cluster) as refusals:
        for seed in seeds:
            before = refusals.total
            played = Processes(cluster, points, seed).play(steps)
            played.refused = refusals.total - before
            yield played


def main() -> int:
    clean_up_on_sigterm()
    parser = argparse.ArgumentParser(description="play the plans of seeds on real processes")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many ({SEEDS})")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each plan ({STEPS})")
    parser.add_argument("--json", type=Path, help="where the outcomes go")
    asked = parser.parse_args()
    outcomes: list[Played] = []
    for played in play_all(range(asked.first, asked.first + asked.seeds), asked.steps):
        outcomes.append(played)
        did = ", ".join(f"{count} {what}" for what, count in sorted(played.done.items()))
        counts = f"{played.rows} rows, {played.again} leased again, {played.refused} slices refused"
        verdict = "clean" if played.clean else "; ".join(played.wrong)
        print(f"seed {played.seed} in {played.took_s:.0f} s: {did}; {counts}; {verdict}", flush=True)
        if asked.json is not None:
            asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes), indent=1))
    done = sum((one.done for one in outcomes), Counter())
    print("\n".join(f"{count:5}  {what}" for what, count in sorted(done.items())))
    for name in ("rows", "again", "released", "refused", "lost", "duplicated", "unexpected"):
        print(f"{sum(getattr(one, name) for one in outcomes):5}  {name}")
    return 0 if all(one.clean for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
