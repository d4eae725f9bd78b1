"""What a measured run asks: requests of a prescribed shape, each of them different.

Answers have exactly as many tokens as prescribed, whatever the model would say, so that two runs did the same
work. The lengths vary by half around the ones asked for, as those of real files do.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

ENDPOINT: Final = "/v1/completions"
VARIATION: Final = 0.5
WORDS: Final = "river stone market window garden engine letter winter signal bridge copper meadow lantern"


@dataclass(frozen=True)
class Shape:
    rows: int
    prompt_words: int
    output_tokens: int


def lines(shape: Shape, model: str, seed: int = 0) -> Iterator[bytes]:
    """One seed is always the same rows; another one shares no prompt with it."""
    chance = random.Random(seed)
    for number in range(shape.rows):
        words = chance.choices(WORDS.split(), k=_around(shape.prompt_words, chance))
        body = {
            "model": model,
            "prompt": f"{number} {chance.getrandbits(32)}: {' '.join(words)}",
            "max_tokens": _around(shape.output_tokens, chance),
            "ignore_eos": True,
            "temperature": 0.0,
        }
        line = {"custom_id": f"row-{number}", "method": "POST", "url": ENDPOINT, "body": body}
        yield json.dumps(line).encode()


def _around(figure: int, chance: random.Random) -> int:
    return max(1, round(figure * chance.uniform(1 - VARIATION, 1 + VARIATION)))
