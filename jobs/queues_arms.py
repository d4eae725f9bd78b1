"""The same rows through raybatch, Celery with Redis, and Procrastinate with PostgreSQL.

Each arm runs rows in two processes, eight at once in each. What is killed is started again at once: by Ray
here, by ``Kept`` there. Results are counted where their owner would look for them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import psutil

from jobs.echo_cluster import STEP_MS, EchoCluster, echo_cluster, until
from jobs.fault_case import begun_rows, kill, patient
from jobs.kills import UNHURRIED
from jobs.queues_row import ROW_S, TASK
from jobs.queues_servers import Kept, Postgres, Redis
from jobs.trial import ENDED, Trial, committed, requests
from raybatch.errors import OperatorError

PROCESSES: Final = 2
AT_ONCE: Final = 8  #: rows in each of them
ROOT: Final = Path(__file__).resolve().parent.parent
PYTHON: Final = ROOT / ".cache" / "queues" / "bin" / "python"
READY_MAX_S: Final = 60.0
CHILD: Final = "child"  #: runs rows, and has a parent; where there is none, as ENGINE
ENGINE: Final = "worker"  #: takes rows
BROKER: Final = "broker"  #: hands rows out
SUCCEEDED: Final = f"FROM procrastinate_jobs WHERE task_name = '{TASK}' AND status = 'succeeded'"


@dataclass(frozen=True)
class Counted:
    """Of all rows, once nothing more comes."""

    lost: int  #: rows without a result
    duplicated: int  #: results beyond one a row
    begun_again: int  #: times that a row began, beyond one a row
    #: times that a row had its effect, beyond one a row; None: it has none but its result
    ended_again: int | None


@dataclass(frozen=True)
class Load:
    """How the task queues run rows."""

    row_s: float = ROW_S  #: what a row is pretended to cost
    at_once: int = AT_ONCE  #: rows in each of the processes
    prefetch: int = 1  #: rows that Celery hands to a process ahead, for each of those
    tallied: bool = True  #: rows write down that they began and ended


CRASH_LOAD: Final = Load()


class Arm(Protocol):
    def submit(self, rows: int) -> None:
        """Begins it; ``submitted`` tells when all are accepted."""

    def submitted(self) -> bool: ...

    def results(self) -> int | None:
        """Rows that have one; None while nobody answers."""

    def kill(self, what: str) -> None:
        """SIGKILL one process of that kind."""

    def keep(self) -> None:
        """Start again what has ended; to be called all the time."""

    def counted(self) -> Counted: ...


class RaybatchArm:
    def __init__(self, cluster: EchoCluster) -> None:
        self._cluster = cluster
        self._rows = 0

    def submit(self, rows: int) -> None:
        self._rows = rows
        self._trial = Trial(self._cluster, requests(rows))

    def submitted(self) -> bool:
        return True

    def results(self) -> int | None:
        """The last ones only with the end, when the output file is there."""
        batch = self._trial.look()
        if batch is None:
            return None
        return committed(batch) if batch["status"] in ENDED else min(committed(batch), self._rows - 1)

    def kill(self, what: str) -> None:
        kill(
            self._cluster,
            {CHILD: "engine-child", ENGINE: "engine", BROKER: "scheduler"}[what],
            signal.SIGKILL,
        )

    def keep(self) -> None:
        """Ray and the supervisor do."""

    def counted(self) -> Counted:
        verdict = patient(self._trial.verdict)
        if verdict.unexpected:
            raise AssertionError(f"rows went wrong: {verdict.faults}")
        begun_again = begun_rows(self._cluster) - self._rows + verdict.lost
        return Counted(verdict.lost, verdict.duplicated, max(0, begun_again), None)


class QueueArm:
    """What the two task queues have in common: their processes, and the files that their rows write."""

    module: str  #: what they run, which can ``fill``

    def __init__(self, folder: Path, load: Load) -> None:
        self._folder = folder
        self._load = load
        self._rows = 0
        self._tally, self._effects = folder / "tally", folder / "effects"
        self._environment = {"QUEUES_ROW_S": str(load.row_s), "QUEUES_PREFETCH": str(load.prefetch)}
        if load.tallied:
            self._environment |= {"QUEUES_TALLY": str(self._tally), "QUEUES_EFFECTS": str(self._effects)}
        self._filling: subprocess.Popen[bytes] | None = None
        self._processes: list[Kept] = []
        self._server: Kept | None = None

    def submit(self, rows: int) -> None:
        self.make_ready(rows)
        self.put_in()

    def make_ready(self, rows: int) -> None:
        """A process that has connected and will put them in, after those of earlier calls."""
        first, self._rows = self._rows, self._rows + rows
        command = [str(PYTHON), "-c", f"from {self.module} import fill; fill({first}, {rows})"]
        self._end_filling()
        self._filling = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | self._environment,
        )
        assert self._filling.stdout is not None
        self._filling.stdout.readline()  # it has started and connected

    def put_in(self) -> None:
        """The rows made ready, now."""
        assert self._filling is not None
        assert self._filling.stdin is not None
        self._filling.stdin.close()

    def submitted(self) -> bool:
        assert self._filling is not None
        code = self._filling.poll()
        if code:
            raise AssertionError(f"rows could not be put in: {self._filling.args!r} ended with {code}")
        return code == 0

    def kill(self, what: str) -> None:
        if what == BROKER:
            assert self._server is not None
            os.kill(self._server.pid, signal.SIGKILL)
            return
        process = self._processes[0]
        children = psutil.Process(process.pid).children() if what == CHILD else []
        os.kill(children[0].pid if children else process.pid, signal.SIGKILL)

    def keep(self) -> None:
        for process in self._kept():
            process.keep()

    def counted(self) -> Counted:
        results = self.answers()
        effects = Counter(self._effects.read_text().split())
        return Counted(
            lost=self._rows - len(results),
            duplicated=results.total() - len(results),
            begun_again=self._tally.stat().st_size - len(effects),
            ended_again=effects.total() - len(effects),
        )

    def close(self) -> None:
        for process in reversed(self._kept()):
            process.close()
        self._end_filling()

    def _end_filling(self) -> None:
        if self._filling is not None:
            self._filling.kill()
            self._filling.wait()
            assert self._filling.stdout is not None
            self._filling.stdout.close()

    def _work(self, *commands: list[str]) -> None:
        """A kept process for each command."""
        for number, command in enumerate(commands):
            log = self._folder / f"process-{number}.log"
            self._processes.append(Kept(command, log, self._environment, folder=ROOT))

    def _kept(self) -> list[Kept]:
        return [*([] if self._server is None else [self._server]), *self._processes]

    def answers(self) -> Counter[int]:
        """How many each row has, fetched as their owner would."""
        raise NotImplementedError


class CeleryArm(QueueArm):
    module = "jobs.celery_arm"

    def start(self) -> None:
        self._redis = Redis(self._folder / "redis")
        self._server = self._redis.process
        self._environment |= {"QUEUES_BROKER": self._redis.url(0), "QUEUES_RESULTS": self._redis.url(1)}
        start = [str(PYTHON), "-m", "celery", f"--app={self.module}", "worker"]
        start += [f"--concurrency={self._load.at_once}"]
        start += ["--optimization=fair", "--loglevel=warning"]
        self._work(*([*start, f"--hostname=queues-{number}@%h"] for number in range(PROCESSES)))
        until(lambda: self._listening() == str(PROCESSES), READY_MAX_S, "Celery's processes are not ready")

    def results(self) -> int | None:
        size = self._redis.ask(1, "DBSIZE")
        return None if size is None else int(size)

    def _listening(self) -> str | None:
        return self._redis.ask(0, "SCARD", "_kombu.binding.celery.pidbox")

    def answers(self) -> Counter[int]:
        """A key holds one result, the last: there is never a second one to be seen."""
        answered = patient_answer(
            lambda: self._redis.ask(1, "MGET", *(f"celery-task-meta-{row}" for row in range(self._rows)))
        )
        found = [json.loads(line) for line in answered.splitlines() if line]
        return Counter(int(result["task_id"]) for result in found if result["status"] == "SUCCESS")


class ProcrastinateArm(QueueArm):
    module = "jobs.procrastinate_arm"

    def start(self) -> None:
        self._postgres = Postgres(self._folder / "postgres")
        self._server = self._postgres.process
        self._environment |= {"QUEUES_DATABASE": self._postgres.database}
        program = [str(PYTHON), "-m", "procrastinate", f"--app={self.module}.app"]
        subprocess.run(
            [*program, "schema", "--apply"],
            check=True,
            cwd=ROOT,
            env=os.environ | self._environment,
            timeout=READY_MAX_S,
        )
        self._work(*([*program, "worker", f"--concurrency={self._load.at_once}"] for _ in range(PROCESSES)))
        working = "SELECT count(*) FROM procrastinate_workers"
        until(
            lambda: self._postgres.ask(working) == str(PROCESSES),
            READY_MAX_S,
            "Procrastinate's processes are not ready",
        )

    def results(self) -> int | None:
        """It has no result store: its owner sees jobs that succeeded."""
        found = self._postgres.ask(f"SELECT count(*) {SUCCEEDED}")
        return None if found is None else int(found)

    def answers(self) -> Counter[int]:
        asked = f"SELECT args->>'number' {SUCCEEDED}"
        return Counter(map(int, patient_answer(lambda: self._postgres.ask(asked)).split()))


Queue = TypeVar("Queue", CeleryArm, ProcrastinateArm)


@contextmanager
def raybatch_arm() -> Iterator[Arm]:
    with tempfile.TemporaryDirectory(prefix="raybatch-queues-") as folder:
        settings = (f"echo.alpha_ms={STEP_MS}", f"echo.concurrency={AT_ONCE}", f"echo.tally={folder}/tally")
        with echo_cluster(UNHURRIED, f"engine.replicas={PROCESSES}", *settings) as cluster:
            yield RaybatchArm(cluster)


@contextmanager
def queue_arm(kind: type[Queue], load: Load = CRASH_LOAD) -> Iterator[Queue]:
    if not PYTHON.exists():
        raise OperatorError(
            "the task queues are not installed: run `make queues`, or requirements/queues.sh before"
        )
    with tempfile.TemporaryDirectory(prefix="raybatch-queues-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user where this is root
        arm = kind(Path(folder), load)
        try:
            arm.start()
            yield arm
        finally:
            arm.close()


ARMS: Final[dict[str, Callable[[], AbstractContextManager[Arm]]]] = {
    "raybatch": raybatch_arm,
    "Celery + Redis": lambda: queue_arm(CeleryArm),
    "Procrastinate + PostgreSQL": lambda: queue_arm(ProcrastinateArm),
}


def patient_answer(ask: Callable[[], str | None]) -> str:
    """Once somebody answers."""
    answers: list[str] = []

    def answered() -> bool:
        answer = ask()
        answers.extend([] if answer is None else [answer])
        return bool(answers)

    until(answered, READY_MAX_S, "the server does not answer")
    return answers[0]
