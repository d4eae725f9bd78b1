"""The simulation notices each known bug: a checker that cannot fail shows nothing."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS, Mutant, hunt


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_known_bug_is_noticed(mutant: Mutant) -> None:
    assert hunt(mutant) is not None, f"{mutant.bug}, and nothing noticed"
