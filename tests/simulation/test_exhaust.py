"""Small worlds in which everything is tried; and, with a known bug in them, the shortest history to it."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from raybatch.core.state import State
from tests.simulation.exhaust import Found, exhaust
from tests.simulation.mutants import BY_NAME
from tests.simulation.small_world import SmallWorld


def tried(rows: int, engines: int, faults: int, wants: int, *, answers_first: bool = False) -> Found:
    return exhaust(SmallWorld(rows, engines, faults, wants, answers_first=answers_first))


@pytest.mark.parametrize(
    ("rows", "engines", "faults", "wants"),
    [(2, 2, 1, 2), (1, 1, 2, 1), (2, 1, 1, 1)],
    ids=["two rows in a chunk, two engines", "two faults", "two chunks"],
)
def test_no_history_breaks_anything_and_each_can_still_end(
    rows: int, engines: int, faults: int, wants: int
) -> None:
    found = tried(rows, engines, faults, wants)
    assert found.wrong == "", "\n".join(found.history)
    assert found.ends


@pytest.mark.parametrize("name", ["no_token_check", "same_token_again", "tokens_anew", "bitmap_forgotten"])
def test_a_known_bug_is_found_with_one_fault(name: str) -> None:
    with BY_NAME[name].planted():
        found = tried(2, 1, 1, 2)
    assert found.wrong.startswith("safety")
    assert sum(words.startswith("FAULT") for words in found.history) == 1


def test_an_answer_before_the_fsync_is_found_and_told_in_as_few_moves_as_there_are() -> None:
    found = tried(2, 1, 1, 2, answers_first=True)
    assert found.wrong == "safety: token 1 is given after 1"
    assert found.history == (
        "e0 reports",
        "scheduler hears report 1 of e0, holding nothing, wanting 2 rows",
        "e0 hears: run chunk 1 under 1",
        "e0 has run row 0 under 1",
        "e0 reports",
        "FAULT scheduler dies",
        "scheduler hears report 2 of e0, holding chunk 1 under 1, wanting 1 rows",
    )


def test_a_world_without_an_end_in_reach_is_found() -> None:
    """A lease that its engine does not know of is never free again."""
    with patch.object(State, "leases_of", lambda state, engine_id: []):
        found = tried(1, 1, 1, 1)
    assert found.wrong.startswith("liveness")
    assert found.history


def test_more_worlds_than_asked_for_are_refused() -> None:
    with pytest.raises(OverflowError, match="more than 10 worlds"):
        exhaust(SmallWorld(2, 2, 1, 2), worlds_max=10)
