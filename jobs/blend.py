"""What could be won by mixing rows of long prompts with rows of long answers: the same rows in three orders.

Reading a prompt and writing an answer use a machine differently, so an engine that always has both might do
more than one that has first the one and then the other. ``LLM.generate`` takes rows in the order it is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from jobs.arms import Arm
from jobs.cores import Cores
from jobs.parity import check_same_work, measure_run
from jobs.prefixes import OrderedArm
from jobs.prompts import WORDS, Prompt
from jobs.runs import Ratio, Run, ratio
from raybatch.config import Settings

MIXED: Final = "mixed"
PROMPTS_FIRST: Final = "long prompts first"
ANSWERS_FIRST: Final = "long answers first"
SHORT_WORDS: Final = 10  #: of the prompts whose answers are long
SHORT_TOKENS: Final = 8  #: of the answers whose prompts are long
WARM_UP_SEED: Final = -1

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    rows: int  #: of each kind
    prompt_words: int  #: of the long prompts
    answer_tokens: int  #: of the long answers


def rows_of_both_kinds(sizes: Sizes, seed: int) -> list[Prompt]:
    """In no order. Every seed gives other beginnings."""
    chance = random.Random(seed)
    kinds = ((sizes.prompt_words, SHORT_TOKENS), (SHORT_WORDS, sizes.answer_tokens))
    wanted = [
        Prompt(f"{chance.getrandbits(32):08x} {' '.join(chance.choices(WORDS, k=words))}", tokens)
        for words, tokens in kinds
        for _ in range(sizes.rows)
    ]
    chance.shuffle(wanted)
    return wanted


def prompts_first(wanted: list[Prompt]) -> list[Prompt]:
    return sorted(wanted, key=lambda prompt: prompt.tokens)


def answers_first(wanted: list[Prompt]) -> list[Prompt]:
    return prompts_first(wanted)[::-1]


def mixed(wanted: list[Prompt]) -> list[Prompt]:
    """One of each kind in turn."""
    ordered = prompts_first(wanted)
    half = len(ordered) // 2
    return list(chain.from_iterable(zip(ordered[:half], ordered[half:], strict=True)))


def measure(engine: Arm, cores: Cores | None, sizes: Sizes, rounds: int, say: Say) -> list[Run]:
    """Every second round in reverse."""
    orders = ((PROMPTS_FIRST, prompts_first), (MIXED, mixed), (ANSWERS_FIRST, answers_first))
    arms = [OrderedArm(name, engine, order) for name, order in orders]
    say("warming up")
    engine.run(rows_of_both_kinds(Sizes(4, SHORT_WORDS, SHORT_TOKENS), WARM_UP_SEED))
    runs: list[Run] = []
    for number in range(rounds):
        for arm in arms if number % 2 == 0 else reversed(arms):
            wanted = rows_of_both_kinds(sizes, number)
            runs.append(measure_run(arm, (), cores, wanted, number, number))
            say(f"round {number + 1}, {arm.name}: {runs[-1].wall_tokens_per_s:.1f} tokens/s")
    check_same_work(runs)
    return runs


def report(runs: list[Run], settings: Settings, cores: Cores | None, sizes: Sizes) -> dict[str, Any]:
    """As it is written to JSON."""
    return {
        "metric": "output tokens/s of rows of both kinds mixed ÷ one kind after the other",
        "ratio": {
            f"{MIXED} ÷ {other}": ratio(runs, MIXED, other, "wall_tokens_per_s")
            for other in (PROMPTS_FIRST, ANSWERS_FIRST)
        },
        "arms": {
            arm: Ratio.of([run.wall_tokens_per_s for run in runs if run.arm == arm])
            for arm in (PROMPTS_FIRST, MIXED, ANSWERS_FIRST)
        },
        "model": settings.models[0],
        "vllm": settings.vllm,
        "cores": cores,
        "sizes": sizes,
        "runs": [run.figures() for run in runs],
    }
