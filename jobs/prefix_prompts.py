"""Prompts that begin alike in groups: a long beginning that all rows of a group share, then a row's own end.

Every seed gives other beginnings, so that no run finds an earlier one's in a cache.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from jobs.prompts import WORDS, Prompt

OWN_WORDS: Final = (8, 24)  #: of a row's own end
OUTPUT_TOKENS: Final = (16, 48)


@dataclass(frozen=True)
class Sizes:
    prefixes: int
    rows: int  #: of each prefix
    prefix_words: int  #: of each prefix


def shuffled(sizes: Sizes, seed: int) -> list[Prompt]:
    """Rows of all prefixes in no order."""
    chance = random.Random(seed)
    wanted = [
        Prompt(f"{prefix} Question {row}: {_words(chance, chance.randint(*OWN_WORDS))}?", _tokens(chance))
        for prefix in (_prefix(sizes, number, chance) for number in range(sizes.prefixes))
        for row in range(sizes.rows)
    ]
    chance.shuffle(wanted)
    return wanted


def oracle_sorted(wanted: Iterable[Prompt]) -> list[Prompt]:
    """The same rows, those of a prefix one after the other, as whoever knows the prefixes would do."""
    return sorted(wanted, key=lambda prompt: prompt.text)


def _prefix(sizes: Sizes, number: int, chance: random.Random) -> str:
    """Unlike any other from its first words on."""
    return f"{chance.getrandbits(32):08x} {number}: {_words(chance, sizes.prefix_words)}."


def _words(chance: random.Random, count: int) -> str:
    return " ".join(chance.choices(WORDS, k=count))


def _tokens(chance: random.Random) -> int:
    return chance.randint(*OUTPUT_TOKENS)
