from __future__ import annotations

from collections import Counter
from itertools import groupby

from jobs.prefix_prompts import OUTPUT_TOKENS, Sizes, oracle_sorted, shuffled
from jobs.prompts import Prompt

SIZES = Sizes(prefixes=6, rows=5, prefix_words=40)


def test_a_seed_always_gives_the_same_rows_in_the_same_order() -> None:
    assert shuffled(SIZES, seed=3) == shuffled(SIZES, seed=3)


def test_every_prefix_has_its_rows_and_each_row_an_end_of_its_own() -> None:
    wanted = shuffled(SIZES, seed=0)

    assert list(Counter(map(_prefix, wanted)).values()) == [SIZES.rows] * SIZES.prefixes
    assert len({prompt.text for prompt in wanted}) == len(wanted) == 30
    assert {len(_prefix(prompt).split()) for prompt in wanted} == {2 + SIZES.prefix_words}


def test_prefixes_differ_from_their_first_words_on_and_another_seed_has_none_of_them() -> None:
    """Else a run would find in the cache what an earlier one left there."""
    first, other = ({prompt.text[:8] for prompt in shuffled(SIZES, seed)} for seed in (1, 2))

    assert len(first) == len(other) == SIZES.prefixes
    assert not first & other


def test_the_oracle_has_the_same_rows_with_those_of_a_prefix_together() -> None:
    wanted = shuffled(SIZES, seed=0)

    known = oracle_sorted(wanted)

    assert Counter(known) == Counter(wanted)
    assert len(list(groupby(known, key=_prefix))) == SIZES.prefixes
    assert len(list(groupby(wanted, key=_prefix))) > 2 * SIZES.prefixes


def test_answers_are_short_and_of_several_lengths() -> None:
    lengths = {prompt.tokens for prompt in shuffled(SIZES, seed=0)}

    shortest, longest = OUTPUT_TOKENS
    assert shortest <= min(lengths) < max(lengths) <= longest


def _prefix(prompt: Prompt) -> str:
    return prompt.text.partition(" Question ")[0]
