"""The arms of the benchmarks on a real engine: a batch through all of raybatch, and vLLM's own two ways.

Each has its engine loaded all the time, and all engines are of the same niceness.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import psutil

from jobs import llm_child, run_batch_child
from jobs.cores import Processes, family, kind_of
from jobs.own_cluster import OwnCluster, until
from jobs.prompts import CHAT, ENDPOINT, Prompt, upload
from jobs.runs import Finish
from jobs.trial import ENDED
from raybatch.actors.cluster_facts import processes
from raybatch.errors import OperatorError

BATCH: Final = "batch"
LLM: Final = "LLM.generate"
RUN_BATCH: Final = "vllm run-batch"
RAY_DATA: Final = "Ray Data LLM"
LOOK_S: Final = 1.0  #: between two looks at a batch: looking often would take part in the race
RUN_MAX_S: Final = 1800.0
STOP_MAX_S: Final = 30.0
#: what it imports and this environment lacks, by requirements/queues.sh
NEEDS_OF_RAY_DATA: Final = Path(__file__).parents[1] / ".cache" / "ray-data"

ROWS_SQL: Final = """
SELECT epoch_us(started_at) / 1e6 AS started_at, epoch_us(finished_at) / 1e6 AS finished_at,
    status_code, prompt_tokens, completion_tokens, cached_tokens
FROM results ORDER BY finished_at"""


@dataclass(frozen=True)
class Measured:
    """Of one run, as its arm saw it."""

    wall_s: float
    finishes: tuple[Finish, ...]
    phases_s: dict[str, float]


class Arm(Protocol):
    name: str

    def processes(self) -> Processes:
        """Those that work for this arm."""
        ...

    def run(self, wanted: list[Prompt]) -> Measured: ...


def uploaded(cluster: OwnCluster, wanted: list[Prompt], endpoint: str = ENDPOINT) -> dict[str, str]:
    """What to ask for a batch of these prompts, whose file is there."""
    content = {"file": ("prompts.jsonl", upload(cluster.settings.models[0].id, wanted, endpoint))}
    file_id = cluster.post("/v1/files", files=content, data={"purpose": "batch"})["id"]
    return {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}


class BatchArm:
    """From ``POST /v1/batches`` to the moment its output file is ready; the upload came before."""

    name = BATCH

    def __init__(self, cluster: OwnCluster, endpoint: str = ENDPOINT) -> None:
        self._cluster = cluster
        self._endpoint = endpoint

    def processes(self) -> Processes:
        found = processes(self._cluster.home)
        return {process.pid: kind_of(process.command) or process.role for process in found}

    def run(self, wanted: list[Prompt]) -> Measured:
        asked = uploaded(self._cluster, wanted, self._endpoint)
        asked_at = time.time()
        batch_id = self._cluster.post("/v1/batches", json=asked)["id"]
        self._wait_ended(batch_id)
        return self._measured(batch_id, asked_at)

    def _wait_ended(self, batch_id: str) -> None:
        """Looks rarely; the ledger tells the moment afterwards."""
        shown: dict[str, Any] = {}

        def ended() -> bool:
            shown.update(self._cluster.get(f"/v1/batches/{batch_id}"))
            return shown["status"] in ENDED

        until(ended, RUN_MAX_S, f"{batch_id} has not ended", LOOK_S)
        if shown["status"] != "completed" or shown["request_counts"]["failed"]:
            raise OperatorError(f"{batch_id} ended as {shown['status']}: {shown['request_counts']}")

    def _measured(self, batch_id: str, asked_at: float) -> Measured:
        batch = self._cluster.batch(batch_id)
        rows = self._cluster.sql(batch_id, ROWS_SQL)
        assert batch.in_progress_at is not None
        assert batch.completed_at is not None
        instants = {
            "intake": batch.in_progress_at,
            "first row started": min(row["started_at"] for row in rows),
            "first row finished": rows[0]["finished_at"],
            "last row finished": rows[-1]["finished_at"],
            "completed": batch.completed_at,
        }
        return Measured(
            batch.completed_at - asked_at,
            tuple(
                Finish(
                    row["finished_at"] - asked_at,
                    row["prompt_tokens"],
                    row["completion_tokens"],
                    row["cached_tokens"],
                )
                for row in rows
            ),
            _phases({name: instant - asked_at for name, instant in instants.items()}),
        )


class ChildArm:
    """In a process that keeps its engine between runs."""

    name: str

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def processes(self) -> Processes:
        found = {}
        for process in family(self._child.pid):
            with contextlib.suppress(psutil.Error):
                found[process.pid] = kind_of(" ".join(process.cmdline())) or "caller"
        return found

    def _measured(self, ask: msgspec.Struct) -> Measured:
        assert self._child.stdin is not None
        self._child.stdin.write(msgspec.json.encode(ask) + b"\n")
        self._child.stdin.flush()
        answer = msgspec.json.decode(_line(self._child), type=llm_child.Answer)
        instants = {
            "first row finished": answer.finishes[0].at_s,
            "last row finished": answer.finishes[-1].at_s,
            "completed": answer.wall_s,
        }
        return Measured(answer.wall_s, answer.finishes, _phases(instants))


class PromptsArm(ChildArm):
    """Over all prompts at once: ``LLM.generate``, or ``ray.data.llm`` from its engine's first row on."""

    def __init__(self, child: subprocess.Popen[bytes], name: str) -> None:
        super().__init__(child)
        self.name = name

    def run(self, wanted: list[Prompt]) -> Measured:
        return self._measured(llm_child.Ask(wanted))


class RunBatchArm(ChildArm):
    """``vllm run-batch`` over a file of chat requests, from reading it to the whole output file."""

    name = RUN_BATCH

    def __init__(self, child: subprocess.Popen[bytes], folder: Path, model: str) -> None:
        super().__init__(child)
        self._folder, self._model = folder, model

    def run(self, wanted: list[Prompt]) -> Measured:
        asked, answered = self._folder / "run_batch.jsonl", self._folder / "run_batch_output.jsonl"
        asked.write_bytes(upload(self._model, wanted, CHAT))
        measured = self._measured(run_batch_child.Ask(str(asked), str(answered)))
        lines = answered.read_bytes().count(b"\n")
        if lines != len(wanted):
            raise AssertionError(f"{RUN_BATCH} wrote {lines} lines for {len(wanted)} rows")
        return measured


@contextmanager
def llm_arm(cluster: OwnCluster) -> Iterator[PromptsArm]:
    """Loaded with what the home of the cluster, which is up, says of models and engines.

    Raises OperatorError with the last words of a child that did not load.
    """
    with _loaded("jobs.llm_child", cluster) as child:
        yield PromptsArm(child, LLM)


@contextmanager
def run_batch_arm(cluster: OwnCluster) -> Iterator[RunBatchArm]:
    """As ``llm_arm``."""
    with _loaded("jobs.run_batch_child", cluster) as child:
        yield RunBatchArm(child, cluster.home.root, cluster.settings.models[0].id)


@contextmanager
def ray_data_arm(cluster: OwnCluster) -> Iterator[PromptsArm]:
    """As ``llm_arm``, but that each run loads an engine of its own."""
    if not NEEDS_OF_RAY_DATA.is_dir():
        raise OperatorError(f"{RAY_DATA} lacks what it imports: run `bash requirements/queues.sh`")
    with _loaded("jobs.ray_data_child", cluster, PYTHONPATH=str(NEEDS_OF_RAY_DATA)) as child:
        yield PromptsArm(child, RAY_DATA)


@contextmanager
def _loaded(module: str, cluster: OwnCluster, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    log_path = cluster.home.logs / f"{module.rpartition('.')[2]}.log"
    engine = psutil.Process(cluster.pids("engine")[0])
    niceness = engine.nice()  # Ray's workers are nicer than who starts them
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", module, str(cluster.home.root), str(niceness)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | environment,
        )
    try:
        if _line(child) != llm_child.READY:
            raise OperatorError(f"{module} did not load its engine: {_last_words(log_path)}")
        yield child
    finally:
        _end(child)


def _line(child: subprocess.Popen[bytes]) -> bytes:
    assert child.stdout is not None
    return child.stdout.readline()


def _last_words(log_path: Path) -> str:
    return " | ".join(log_path.read_text(errors="replace").strip().splitlines()[-5:])


def _end(child: subprocess.Popen[bytes]) -> None:
    """Its input ends; what has not ended then is killed, vLLM's processes too."""
    mine = family(child.pid)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    _, alive = psutil.wait_procs(mine, timeout=STOP_MAX_S)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=STOP_MAX_S)
    child.wait()
    child.stdout.close()


def _phases(instants_s: dict[str, float]) -> dict[str, float]:
    """From instants in their order to the time before each."""
    ends_s = [0.0, *instants_s.values()]
    return {name: end - begin for name, (begin, end) in zip(instants_s, pairwise(ends_s), strict=True)}
