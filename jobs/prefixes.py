"""P3: what is won by running rows that begin alike together, while memory for keys and values is short.

A shuffled file through two raybatches, one that groups rows by the beginnings of their prompts and one that
keeps the order of the file; and the same rows through ``LLM.generate``, shuffled and sorted by an oracle. An
engine finds the beginning of a row in its prefix cache as long as that still holds it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jobs.arms import Arm, BatchArm, Measured, llm_arm
from jobs.cores import Cores, Processes
from jobs.parity import check_same_work, engine_settings, loaded, measure_run
from jobs.prefix_prompts import Sizes, oracle_sorted, shuffled
from jobs.prompts import Prompt
from jobs.runs import Ratio, Run, ratio
from raybatch.config import ModelSettings, Settings

GROUPED: Final = "raybatch"
KEPT: Final = "raybatch, file order"
FIFO: Final = "LLM.generate, file order"
ORACLE: Final = "LLM.generate, sorted"
PAIRS: Final = (
    ("grouped ÷ oracle", GROUPED, ORACLE),
    ("grouped ÷ file order", GROUPED, KEPT),
    ("grouped ÷ LLM.generate in file order", GROUPED, FIFO),
    ("oracle ÷ LLM.generate in file order", ORACLE, FIFO),
)
RATES: Final = ("wall", "steady")
ENGINES: Final = 3  #: all loaded, one at work
BLOCK_TOKENS: Final = 32  #: the cache finds whole blocks; on CPUs they are multiples of 32
MODEL_LEN: Final = 1024  #: tokens; an engine needs memory for one row of this length
WARM_UP: Final = Sizes(prefixes=2, rows=2, prefix_words=20)
WARM_UP_SEED: Final = -1

Say = Callable[[str], None]


@dataclass(frozen=True)
class Memory:
    """Of an engine for keys and values, whatever the model's shape."""

    kv_tokens: int
    at_once: int  #: rows

    @property
    def assignments(self) -> tuple[str, ...]:
        blocks = {
            "block_size": BLOCK_TOKENS,
            "num_gpu_blocks_override": math.ceil(self.kv_tokens / BLOCK_TOKENS),
        }
        return (
            f"vllm.max_num_seqs={self.at_once}",
            f"vllm.max_model_len={MODEL_LEN}",
            f"vllm.extra={json.dumps(blocks)}",
        )


@dataclass
class OrderedArm:
    """An engine's arm that is handed the rows in an order of its own. Two may share an engine."""

    name: str
    engine: Arm
    order: Callable[[list[Prompt]], list[Prompt]] = list

    def processes(self) -> Processes:
        return self.engine.processes()

    def run(self, wanted: list[Prompt]) -> Measured:
        return self.engine.run(self.order(wanted))


def both_settings(
    model: ModelSettings, cache: Path, cores: Cores | None, memory: Memory, assignments: tuple[str, ...]
) -> tuple[Settings, Settings]:
    """Of a raybatch that groups rows, and of one that does not; they differ in nothing else but the port."""
    grouping, keeping = (
        engine_settings(
            model, cache, cores, ENGINES, (*memory.assignments, *assignments, f"intake.group_prefixes={word}")
        )
        for word in ("true", "false")
    )
    return grouping, keeping


@contextmanager
def all_arms(grouping: Settings, keeping: Settings, say: Say) -> Iterator[tuple[OrderedArm, ...]]:
    """Loaded."""
    say("starting a raybatch that groups rows by prefix")
    with loaded(grouping) as grouped:
        say("starting a raybatch that keeps the order of the file")
        with loaded(keeping) as kept:
            say("loading the model into an LLM")
            with llm_arm(grouped) as llm:
                yield (
                    OrderedArm(GROUPED, BatchArm(grouped)),
                    OrderedArm(KEPT, BatchArm(kept)),
                    OrderedArm(FIFO, llm),
                    OrderedArm(ORACLE, llm, oracle_sorted),
                )


def measure(
    arms: tuple[OrderedArm, ...], cores: Cores | None, sizes: Sizes, rounds: int, say: Say
) -> list[Run]:
    """Every second round in reverse. Raises AssertionError when arms made different numbers of tokens."""
    for arm in arms:
        say(f"warming up {arm.name}")
        arm.run(shuffled(WARM_UP, WARM_UP_SEED))
    runs: list[Run] = []
    for number in range(rounds):
        for arm in arms if number % 2 == 0 else reversed(arms):
            idle = [other for other in arms if other.engine is not arm.engine]
            runs.append(measure_run(arm, idle, cores, shuffled(sizes, number), number, number))
            say(
                f"round {number + 1}, {arm.name}: {runs[-1].wall_tokens_per_s:.1f} tokens/s,"
                f" {runs[-1].cached_share:.0%} of the prompts cached"
            )
    check_same_work(runs)
    return runs


def report(runs: list[Run], settings: Settings, cores: Cores | None, sizes: Sizes) -> dict[str, Any]:
    """As it is written to JSON."""
    return {
        "metric": "P3 prefix harvest: output tokens/s of a shuffled file ÷ LLM.generate on it sorted",
        "ratio": {
            f"{kind}: {name}": ratio(runs, arm, peer, f"{kind}_tokens_per_s")
            for kind in RATES
            for name, arm, peer in PAIRS
        },
        "arms": {
            arm: {
                figure: Ratio.of([getattr(run, figure) for run in runs if run.arm == arm])
                for figure in (*(f"{kind}_tokens_per_s" for kind in RATES), "cached_share")
            }
            for arm in dict.fromkeys(run.arm for run in runs)
        },
        "model": settings.models[0],
        "vllm": settings.vllm,
        "cores": cores,
        "sizes": sizes,
        "runs": [run.figures() for run in runs],
    }
