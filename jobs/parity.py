"""Engine parity: how much of ``LLM.generate``'s speed is left of a batch that goes through everything else.

Both arms run the same prompts on the same model with the same engine arguments, in the order A-B-B-A.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from jobs.arms import BATCH, LLM, Arm, BatchArm, LlmArm, llm_arm
from jobs.cores import ENGINE_CORE, WORKER, Cores, CpuMeter, divided
from jobs.own_cluster import OwnCluster
from jobs.prompts import prompts
from jobs.runs import Run, ratio
from raybatch.actors.ports import free_ports
from raybatch.config import PACKAGED_MODEL, Home, ModelSettings, Settings, make_settings
from raybatch.engine.packaged_model import prepare_packaged_model

ENGINE_READY_MAX_S: Final = 900.0
REST_S: Final = 3.0  #: an engine that has nothing to do spins for a second before it sleeps
WARM_UP_ROWS_MAX: Final = 32
WARM_UP_SEED: Final = -1
#: of the card, for each of the two engines that share it
GPU_SHARE: Final = "vllm.gpu_memory_utilization=0.42"

Say = Callable[[str], None]


def parity_settings(
    model: ModelSettings, cache: Path, cores: Cores | None, assignments: tuple[str, ...]
) -> Settings:
    """Of both engines. The packaged model is converted into ``cache``, once."""
    if model.source == PACKAGED_MODEL.source:
        model = replace(model, source=str(prepare_packaged_model(cache / "models")))
    gpu = has_gpu()
    share = (GPU_SHARE,) if gpu else ()
    bind = () if cores is None else (f"vllm.cpu_threads_bind={cores.bind}",)
    port = f"api.port={free_ports(1)[0]}"
    return make_settings(
        "desktop" if gpu else "cpu",
        ("ray.dashboard=false", port, *share, *bind, *assignments),
        models=(model,),
    )


def cores_to_divide() -> Cores | None:
    """None where a GPU computes."""
    return None if has_gpu() else divided()


def has_gpu() -> bool:
    """Whether NVIDIA's driver shows a device to this process."""
    return Path("/dev/nvidiactl").exists()


@contextmanager
def both_arms(settings: Settings, say: Say) -> Iterator[tuple[BatchArm, LlmArm]]:
    """Loaded, pinned and warm."""
    cluster = OwnCluster(Home(Path(tempfile.mkdtemp(prefix="raybatch-"))), settings, ENGINE_READY_MAX_S)
    try:
        say("starting raybatch and loading the model")
        cluster.up()
        say("loading the model into an LLM")
        with llm_arm(cluster) as peer:
            yield BatchArm(cluster), peer
    finally:
        cluster.close()


def measure(arms: tuple[Arm, Arm], cores: Cores | None, rows: int, rounds: int, say: Say) -> list[Run]:
    """Raises AssertionError when the arms did not produce the same numbers of tokens."""
    for arm in arms:
        say(f"warming up {arm.name}")
        arm.run(prompts(min(rows, WARM_UP_ROWS_MAX), WARM_UP_SEED))
    runs: list[Run] = []
    first, second = arms
    for number in range(rounds):
        for position, arm in enumerate((first, second, second, first)):
            seed = 2 * number + position // 2
            other = second if arm is first else first
            runs.append(measure_run(arm, other, cores, rows, number, seed))
            say(f"round {number + 1}, {arm.name}: {runs[-1].wall_tokens_per_s:.1f} tokens/s")
    check_same_work(runs)
    return runs


def measure_run(arm: Arm, other: Arm, cores: Cores | None, rows: int, number: int, seed: int) -> Run:
    time.sleep(REST_S)
    mine, others = arm.processes(), other.processes()
    if cores is not None:
        cores.pin({**mine, **others})
    meter, idle_meter = CpuMeter(mine), CpuMeter(others)
    with nullcontext() if cores is None else cores.aside():
        measured = arm.run(prompts(rows, seed))
    idle = idle_meter.used_s(others)
    return Run(
        arm.name,
        number,
        seed,
        measured.wall_s,
        measured.finishes,
        measured.phases_s,
        meter.used_s(arm.processes()),
        idle.get(WORKER, 0.0) + idle.get(ENGINE_CORE, 0.0),
    )


def check_same_work(runs: list[Run]) -> None:
    """Row for row the same tokens in and out, whichever arm ran a seed."""
    work: dict[int, Counter[tuple[int, int]]] = {}
    for run in runs:
        done = Counter((finish.prompt_tokens, finish.completion_tokens) for finish in run.finishes)
        if work.setdefault(run.seed, done) != done:
            raise AssertionError(
                f"{run.arm} made {run.completion_tokens} tokens of {run.prompt_tokens} with seed {run.seed},"
                " which is not what the other arm made"
            )


def report(runs: list[Run], settings: Settings, cores: Cores | None) -> dict[str, Any]:
    """As it is written to JSON."""
    return {
        "metric": "P1 engine parity: output tokens/s of a batch ÷ LLM.generate",
        "ratio": {
            "wall": ratio(runs, BATCH, LLM, "wall_tokens_per_s"),
            "steady": ratio(runs, BATCH, LLM, "steady_tokens_per_s"),
        },
        "arms": {
            arm: {
                "wall_tokens_per_s": [run.wall_tokens_per_s for run in runs if run.arm == arm],
                "steady_tokens_per_s": [run.steady_tokens_per_s for run in runs if run.arm == arm],
            }
            for arm in (BATCH, LLM)
        },
        "model": settings.models[0],
        "vllm": settings.vllm,
        "cores": cores,
        "runs": [
            {
                "arm": run.arm,
                "round": run.round,
                "seed": run.seed,
                "rows": len(run.finishes),
                "prompt_tokens": run.prompt_tokens,
                "completion_tokens": run.completion_tokens,
                "wall_s": run.wall_s,
                "steady_s": run.steady_s,
                "wall_tokens_per_s": run.wall_tokens_per_s,
                "steady_tokens_per_s": run.steady_tokens_per_s,
                "phases_s": run.phases_s,
                "cpu_s": run.cpu_s,
                "idle_cpu_s": run.idle_cpu_s,
                "finishes": [(finish.at_s, finish.completion_tokens) for finish in run.finishes],
            }
            for run in runs
        ],
    }
