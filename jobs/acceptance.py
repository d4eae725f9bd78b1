"""What was asked for, box by box, each with its evidence: ``python -m jobs.acceptance``.

One cluster on the echo engine, pinned to a GPU that the NVML stand-in plays. Nothing is assumed: each box is
ticked by what the API, the files and the processes show. Exits with 1 when one is not.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from unittest.mock import patch

import httpx
import typer
from rich.console import Console

from jobs import gpu_scenes, memory, sharing
from jobs.api import clean_up_on_sigterm
from jobs.echo_cluster import EchoCluster, make_cluster, until
from jobs.nvml_standin import Scene, compile_standin, environment, write_scene
from jobs.trial import ENDPOINT, Trial, committed, requests, upload_of

MIB: Final = 1 << 20
GROWTH_MIB_MAX: Final = (
    200.0  #: of a process, from a tenth of the rows to all: less than their files together
)
SILENT_S: Final = 60.0  #: an engine not heard of for so long is dead, as it was asked for
NOTICED_MAX_S: Final = 10.0  #: beyond that, until it shows


@dataclass(frozen=True)
class Box:
    asked: str
    ticked: bool
    evidence: tuple[str, ...]


@dataclass
class Stage:
    cluster: EchoCluster
    scene_path: Path
    rows: int
    silent_s: float


def main(
    rows: Annotated[int, typer.Option(min=2000, help="Of the large batch.")] = 200_000,
    silent_s: Annotated[float, typer.Option(help="An engine this long silent is dead.")] = SILENT_S,
    only: Annotated[str, typer.Option(help="With commas between them; all unless given.")] = "",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the boxes there, too.")] = None,
) -> None:
    """Tick what was asked for, box by box."""
    clean_up_on_sigterm()
    known = {look.__name__: look for look in BOXES}
    chosen = [name for name in only.split(",") if name] or list(known)
    if unknown := [name for name in chosen if name not in known]:
        raise typer.BadParameter(f"no such box: {', '.join(unknown)}. Choose from {', '.join(known)}")
    console = Console()
    boxes = []
    with _stage(rows, silent_s) as stage:
        for look in map(known.__getitem__, chosen):
            boxes.append(look(stage))
            _show(console, boxes[-1])
    if json_path is not None:
        json_path.write_text(json.dumps([asdict(box) for box in boxes], indent=2))
    ticked = sum(box.ticked for box in boxes)
    console.print(f"{ticked} of {len(boxes)} boxes ticked")
    if ticked < len(boxes):
        raise typer.Exit(1)


def large_batch(stage: Stage) -> Box:
    """Accepted as one, run to its end, every row checked; each process's peak against a tenth of the rows."""
    small = memory.measure(stage.cluster, stage.rows // 10)
    large = memory.measure(stage.cluster, stage.rows)
    roles = sorted(large.peaks)
    none = memory.Peak()
    growth = {
        role: (large.peaks[role].pss_bytes - small.peaks.get(role, none).pss_bytes) / MIB for role in roles
    }
    peaks = ", ".join(
        f"{role} {large.peaks[role].pss_bytes / MIB:.0f} ({growth[role]:+.0f})" for role in roles
    )
    return Box(
        f"{stage.rows:,} requests in one batch without running out of memory",
        all(mib < GROWTH_MIB_MAX for mib in growth.values()),
        (
            f"completed: {large.rows:,} rows, none lost, none twice",
            f"peak MiB (growth since {small.rows:,} rows): {peaks}",
        ),
    )


def refusals(stage: Stage) -> Box:
    """More requests, batches or bytes than a limit allows: each refusal names limit, value, setting."""
    over = requests(stage.rows + 1)
    answers = [("one request too many", _create(stage, over))]
    paused = [_create(stage, requests(1000)) for _ in range(_limits(stage).active_batches_max)]
    answers.append(("one batch too many", _create(stage, requests(10))))
    for answer in paused:
        stage.cluster.post(f"/v1/batches/{answer.json()['id']}/cancel")
    size_bytes = stage.cluster.settings.api.upload_bytes_max
    answers.append(("a file too large", _upload(stage, b"{}\n" * (size_bytes // 3 + 2))))
    told = []
    for what, answer in answers:
        error = answer.json()["error"]
        after = answer.headers.get("retry-after")
        told.append(
            f"{what}: {answer.status_code} {error['message']}{f' Retry-After {after}.' if after else ''}"
        )
    expected = [400, 429, 413]
    named = all("setting " in line for line in told)
    return Box(
        "Work that would overwhelm the server is refused",
        named and [answer.status_code for _, answer in answers] == expected,
        tuple(told),
    )


def crash_and_resume(stage: Stage) -> Box:
    """Everything is killed at once in the middle of a batch, then started again."""
    trial = Trial(stage.cluster, requests(stage.rows))
    before = committed(trial.wait_committed(stage.rows // 5))
    stage.cluster.kill_everything()
    stage.cluster.up(engines=0)
    verdict = trial.verdict()
    return Box(
        "Resume after a crash, nothing lost",
        verdict.clean and before < stage.rows,
        (
            f"killed with {before:,} of {stage.rows:,} rows committed, started again",
            f"lost {verdict.lost}, duplicated {verdict.duplicated}, unexpected {verdict.unexpected}",
        ),
    )


def failed_and_retried(stage: Stage) -> Box:
    """Rows that fail three times are dead letters with a reason; retried, they complete in place."""
    said = {
        f"r{n}": f"[[status=503 times=4]] number {n}" if n % 100 == 7 else f"hello {n}" for n in range(1000)
    }
    trial = Trial(stage.cluster, upload_of(said.items()))
    first = trial.wait_ended()["request_counts"]
    letters = stage.cluster.get(f"/v1/batches/{trial.batch_id}/failed")["data"]
    stage.cluster.post(f"/v1/batches/{trial.batch_id}/retry")
    second = trial.wait_ended()["request_counts"]
    letter = letters[0] if letters else {}
    shown = {key: letter.get(key) for key in ("custom_id", "error_type", "error_message", "attempts")}
    return Box(
        "Failed requests are tracked and can be retried",
        (first["failed"], len(letters), second["failed"], second["completed"]) == (10, 10, 0, 1000),
        (f"first round: {first}", f"a dead letter: {shown}", f"after the retry: {second}"),
    )


def dead_or_alive(stage: Stage) -> Box:
    """The engine's process is stopped: it is called dead after a minute, ended, and started again."""
    until(lambda: stage.cluster.ready_engines() == 1, 60.0, "no engine is ready")
    began_mono = time.monotonic()
    pid = stage.cluster.signal("engine", signal.SIGSTOP)
    reasons: list[str] = []

    def noticed() -> bool:
        reasons[:] = _health(stage).get("reasons", [])
        return any("last heard of" in reason for reason in reasons) or stage.cluster.pids("engine") != [pid]

    until(noticed, stage.silent_s + 60.0, "nobody noticed a stopped engine")
    noticed_s = time.monotonic() - began_mono
    until(
        lambda: stage.cluster.pids("engine") not in ([], [pid]) and stage.cluster.ready_engines() == 1,
        120.0,
        "no engine came back",
    )
    back_s = time.monotonic() - began_mono
    return Box(
        f"Dead or alive is known within {stage.silent_s:.0f} s, and restart is automatic",
        noticed_s < stage.silent_s + NOTICED_MAX_S,
        (
            f"stopped engine (pid {pid}) called dead after {noticed_s:.0f} s: {'; '.join(reasons)}",
            f"another one ready after {back_s:.0f} s",
        ),
    )


def progress_seen(stage: Stage) -> Box:
    """While a batch runs: counts, pace, the time it will take, and the GPU's figures."""
    trial = Trial(stage.cluster, requests(stage.rows))
    batch = trial.wait(
        lambda seen: (
            (committed(seen) >= stage.rows // 3 and seen["raybatch"]["eta"] is not None)
            or seen["status"] == "completed"
        ),
        "no progress was shown",
    )
    engine = _health(stage)["engines"][0]
    log = [entry["kind"] for entry in stage.cluster.get(f"/v1/batches/{trial.batch_id}/logs")["data"]]
    trial.wait_ended()
    pace = {key: batch["raybatch"][key] for key in ("rows_per_s", "tokens_per_s", "eta")}
    gpu = {key: engine["gpus"][0][key] for key in ("name", "temperature_c", "power_w", "memory_used_bytes")}
    return Box(
        "Progress and GPU figures are visible",
        batch["status"] == "in_progress" and pace["eta"] is not None and gpu["temperature_c"] == 60,
        (
            f"{batch['status']}: {batch['request_counts']}, {pace}",
            f"heartbeat {engine['heartbeat_age_s']} s ago: {engine['rows_per_s']} rows/s, {gpu}",
            f"its log: {', '.join(log)}",
        ),
    )


def gpu_watched(stage: Stage) -> Box:
    """Heat, foreign memory, memory errors, a lost card: what admission and the engine's window do."""
    moments = gpu_scenes.play(stage.cluster, stage.scene_path)
    created = [moment.create for moment in moments]
    return Box(
        "GPU health is monitored, and work adapts to it",
        created == [200, 200, 503, 503, 200, 503, 200, 200, 503, 200],
        tuple(map(str, moments)),
    )


def small_beside_large(stage: Stage) -> Box:
    """A small batch that arrives during a large one is not stuck behind it."""
    (round_,) = sharing.measure(stage.cluster, 200, max(2000, stage.rows // 10), 1, lambda _: None)
    return Box(
        "A small batch is not stuck behind a large one",
        round_.slowdown < round_.large_alone_s / round_.small_alone_s,
        (
            f"{round_.small_rows} rows alone {round_.small_alone_s:.1f} s, beside {round_.large_rows:,} rows "
            f"{round_.small_beside_s:.1f} s: {round_.slowdown:.2f} times; the large one takes "
            f"{round_.large_alone_s:.1f} s",
        ),
    )


BOXES: Final[tuple[Callable[[Stage], Box], ...]] = (
    large_batch,
    progress_seen,
    refusals,
    crash_and_resume,
    failed_and_retried,
    small_beside_large,
    gpu_watched,
    dead_or_alive,
)


@contextmanager
def _stage(rows: int, silent_s: float) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="raybatch-gpu-") as directory:
        scene_path = Path(directory, "scene")
        write_scene(scene_path, Scene((gpu_scenes.NORMAL,)))
        cluster = make_cluster(
            "engine.gpus=1",
            "api.upload_bytes_max=67108864",
            "scheduler.active_batches_max=3",
            f"scheduler.requests_max={rows}",
            f"scheduler.engine_silent_s={silent_s}",
            "scheduler.restarts_free=100",
            rows_per_s=max(400.0, rows / 40),
        )
        with patch.dict(os.environ, environment(compile_standin(Path(directory)), scene_path)):
            try:
                cluster.up()
                yield Stage(cluster, scene_path, rows, silent_s)
            finally:
                cluster.close()


def _limits(stage: Stage) -> Any:
    return stage.cluster.settings.scheduler


def _create(stage: Stage, upload: bytes) -> httpx.Response:
    file_id = _upload(stage, upload).json()["id"]
    asked = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    return httpx.post(f"{stage.cluster.url}/v1/batches", json=asked, timeout=60.0)


def _upload(stage: Stage, upload: bytes) -> httpx.Response:
    files = {"file": ("requests.jsonl", upload)}
    return httpx.post(f"{stage.cluster.url}/v1/files", files=files, data={"purpose": "batch"}, timeout=300.0)


def _health(stage: Stage) -> dict[str, Any]:
    """Also while it answers 503."""
    health: dict[str, Any] = httpx.get(f"{stage.cluster.url}/health", timeout=30.0).json()
    return health


def _show(console: Console, box: Box) -> None:
    console.print(f"[{'x' if box.ticked else ' '}] {box.asked}", markup=False, style="bold")
    for line in box.evidence:
        console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)


app = typer.Typer(add_completion=False)
app.command()(main)

if __name__ == "__main__":
    app()
