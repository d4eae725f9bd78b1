"""Engine parity: how much of vLLM's own speed is left of a batch that goes through everything else.

Both arms run the same prompts on the same model with the same engine arguments, in the order A-B-B-A.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from jobs.arms import BATCH, LLM, RAY_DATA, RUN_BATCH, Arm, BatchArm, llm_arm, ray_data_arm, run_batch_arm
from jobs.cores import ENGINE_CORE, WORKER, Cores, CpuMeter, divided
from jobs.own_cluster import OwnCluster
from jobs.prompts import CHAT, ENDPOINT, Prompt, prompts
from jobs.runs import Run, ratio
from raybatch.actors.ports import free_ports
from raybatch.config import PACKAGED_MODEL, Home, ModelSettings, Settings, make_settings
from raybatch.engine.packaged_model import prepare_packaged_model

ENGINE_READY_MAX_S: Final = 900.0
REST_S: Final = 3.0  #: an engine that has nothing to do spins for a second before it sleeps
WARM_UP_ROWS_MAX: Final = 32
WARM_UP_SEED: Final = -1
GPU_SHARE: Final = 0.84  #: of the card's memory, for all engines that share it together

#: by name: the endpoint that both arms ask, and how the peer is loaded. ``run-batch`` knows no completions.
PEERS: Final[dict[str, tuple[str, Callable[[OwnCluster], AbstractContextManager[Arm]]]]] = {
    LLM: (ENDPOINT, llm_arm),
    RUN_BATCH: (CHAT, run_batch_arm),
    RAY_DATA: (ENDPOINT, ray_data_arm),
}

Say = Callable[[str], None]


def engine_settings(
    model: ModelSettings, cache: Path, cores: Cores | None, engines: int, assignments: tuple[str, ...]
) -> Settings:
    """Of each of so many engines on this machine. The packaged model is converted into ``cache``, once."""
    if model.source == PACKAGED_MODEL.source:
        model = replace(model, source=str(prepare_packaged_model(cache / "models")))
    gpu = has_gpu()
    share = (f"vllm.gpu_memory_utilization={GPU_SHARE / engines:.2f}",) if gpu else ()
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
def both_arms(settings: Settings, peer: str, say: Say) -> Iterator[tuple[Arm, Arm]]:
    """Loaded. ``peer``: one of ``PEERS``; both arms ask the same endpoint."""
    endpoint, peer_arm = PEERS[peer]
    say("starting raybatch and loading the model")
    with loaded(settings) as cluster:
        say(f"loading the model for {peer}")
        with peer_arm(cluster) as arm:
            yield BatchArm(cluster, endpoint), arm


@contextmanager
def loaded(settings: Settings) -> Iterator[OwnCluster]:
    """A raybatch whose engine is ready, until the block ends."""
    with loading(settings) as cluster:
        cluster.up()
        yield cluster


@contextmanager
def loading(settings: Settings) -> Iterator[OwnCluster]:
    """A raybatch that is not up yet, and is removed when the block ends."""
    cluster = OwnCluster(Home(Path(tempfile.mkdtemp(prefix="raybatch-"))), settings, ENGINE_READY_MAX_S)
    try:
        yield cluster
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
            runs.append(measure_run(arm, (other,), cores, prompts(rows, seed), number, seed))
            say(f"round {number + 1}, {arm.name}: {runs[-1].wall_tokens_per_s:.1f} tokens/s")
    check_same_work(runs)
    return runs


def measure_run(
    arm: Arm, idle: Iterable[Arm], cores: Cores | None, wanted: list[Prompt], number: int, seed: int
) -> Run:
    """One run of an arm, pinned, while the others, which have engines of their own, are idle."""
    time.sleep(REST_S)
    mine = arm.processes()
    others = {pid: kind for other in idle for pid, kind in other.processes().items()}
    if cores is not None:
        cores.pin({**mine, **others})
    meter, idle_meter = CpuMeter(mine), CpuMeter(others)
    with nullcontext() if cores is None else cores.aside():
        measured = arm.run(wanted)
    idle_s = idle_meter.used_s(others)
    return Run(
        arm.name,
        number,
        seed,
        measured.wall_s,
        measured.finishes,
        measured.phases_s,
        meter.used_s(arm.processes()),
        idle_s.get(WORKER, 0.0) + idle_s.get(ENGINE_CORE, 0.0),
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


def report(runs: list[Run], peer: str, settings: Settings, cores: Cores | None) -> dict[str, Any]:
    """As it is written to JSON."""
    return {
        "metric": f"P1 engine parity: output tokens/s of a batch ÷ {peer}",
        "ratio": {
            "wall": ratio(runs, BATCH, peer, "wall_tokens_per_s"),
            "steady": ratio(runs, BATCH, peer, "steady_tokens_per_s"),
        },
        "arms": {
            arm: {
                "wall_tokens_per_s": [run.wall_tokens_per_s for run in runs if run.arm == arm],
                "steady_tokens_per_s": [run.steady_tokens_per_s for run in runs if run.arm == arm],
            }
            for arm in (BATCH, peer)
        },
        "model": settings.models[0],
        "vllm": settings.vllm,
        "cores": cores,
        "runs": [run.figures() for run in runs],
    }
