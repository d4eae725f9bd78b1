"""Prompts with prescribed answer lengths: the same work for whoever is measured, down to the token.

Every seed gives other prompts, so that no run finds an earlier one's prefixes in the cache.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

ENDPOINT: Final = "/v1/completions"
CHAT: Final = "/v1/chat/completions"
WORDS: Final = (
    *("river", "stone", "market", "window", "garden", "engine", "letter", "winter", "signal", "bridge"),
    *(
        "copper",
        "meadow",
        "lantern",
        "harbour",
        "pencil",
        "thunder",
        "violin",
        "orchard",
        "compass",
        "blanket",
    ),
)
PROMPT_WORDS: Final = (10, 80)
OUTPUT_TOKENS: Final = (16, 256)  #: heavy-tailed between these
OUTPUT_TOKENS_MEDIAN: Final = 64
OUTPUT_SPREAD: Final = 0.7  #: of the logarithm of a length


@dataclass(frozen=True)
class Prompt:
    text: str
    tokens: int  #: the answer has exactly so many


def prompts(rows: int, seed: int) -> list[Prompt]:
    chance = random.Random(seed)
    return [_prompt(number, chance) for number in range(rows)]


def echoes(rows: int, seed: int) -> list[tuple[str, str]]:
    """custom_id and what the user says, so long that an echo engine's answers have the prescribed lengths."""
    return [
        (f"r{number}", " ".join([str(number)] + ["word"] * (prompt.tokens - 2)))
        for number, prompt in enumerate(prompts(rows, seed))
    ]


def sampling(prompt: Prompt) -> dict[str, Any]:
    """Greedy, and on to the prescribed length whatever the model says. Nothing is left to a model's own
    generation config, which a server applies and ``LLM.generate`` does not."""
    return {
        "max_tokens": prompt.tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }


def upload(model: str, wanted: Sequence[Prompt], endpoint: str = ENDPOINT) -> bytes:
    """The JSONL of a batch; each prompt is all that a user says where ``endpoint`` is ``CHAT``."""
    lines = (
        {
            "custom_id": f"p{number}",
            "method": "POST",
            "url": endpoint,
            "body": {"model": model, **_asked(prompt, endpoint), **sampling(prompt)},
        }
        for number, prompt in enumerate(wanted)
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _asked(prompt: Prompt, endpoint: str) -> dict[str, Any]:
    if endpoint == CHAT:
        return {"messages": [{"role": "user", "content": prompt.text}]}
    return {"prompt": prompt.text}


def _prompt(number: int, chance: random.Random) -> Prompt:
    words = chance.choices(WORDS, k=chance.randint(*PROMPT_WORDS))
    tokens = round(chance.lognormvariate(math.log(OUTPUT_TOKENS_MEDIAN), OUTPUT_SPREAD))
    shortest, longest = OUTPUT_TOKENS
    text = f"{chance.getrandbits(32)} {number}: {' '.join(words)}"
    return Prompt(text, min(max(tokens, shortest), longest))
