"""What was answered survives power cuts and kills at any step, and a sweep leaves nothing behind."""

from __future__ import annotations

import logging

import pytest

from tests.simulation.power import live_through_cuts


@pytest.mark.parametrize("first_seed", range(0, 100, 50))
def test_what_was_answered_is_there_in_every_later_life(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 50):
        live_through_cuts(seed)


def test_the_lives_end_in_many_ways(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    with caplog.at_level(logging.WARNING):
        for seed in range(100, 140):
            live_through_cuts(seed, told)
    ends = {line for line in told if line.startswith(("the power fails", "the process is killed"))}
    for label in ("journal.written", "journal.synced", "ledger.committed", "turn.remembered", "file.renamed"):
        assert any(line.endswith(label) for line in ends), label
    assert "the ledger has lost its last commit" in told
    assert "never acknowledged and is cut off" in caplog.text


def test_a_seed_is_one_history() -> None:
    first: list[str] = []
    second: list[str] = []
    live_through_cuts(7, first)
    live_through_cuts(7, second)
    assert first == second
