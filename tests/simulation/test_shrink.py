"""A failure comes with a history that can be played again and read by a person."""

from __future__ import annotations

import sys

import pytest

from tests.simulation import simulate
from tests.simulation.histories import Broken, live
from tests.simulation.mutants import BY_NAME, place_of
from tests.simulation.plan import STEPS
from tests.simulation.shrink import shrunk, told
from tests.simulation.transcript import Transcript


def test_a_seed_is_one_history() -> None:
    transcripts = [Transcript(), Transcript()]
    for transcript in transcripts:
        live(11, told=transcript)
    assert transcripts[0].lines == transcripts[1].lines
    assert len(transcripts[0].lines) > 500


@pytest.mark.parametrize(("name", "kind"), [("no_token_check", "safety"), ("chore_never_again", "liveness")])
def test_a_failure_is_shrunk_to_a_history_that_fails_in_the_same_way(name: str, kind: str) -> None:
    with BY_NAME[name].planted():
        with pytest.raises(Broken, match=f"seed 0: {kind}") as failed:
            live(0)
        plan = shrunk(failed.value, tries_max=60)
        lines, again = told(failed.value, plan)
    assert (again.kind, place_of(again)) == (kind, place_of(failed.value))
    assert len(plan) < STEPS / 5
    assert lines


def test_a_failed_seed_is_named_told_and_ends_the_command_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["simulate", "--seeds", "4", "--processes", "1", "--mutant", "no_token_check", "--tries", "5"]
    monkeypatch.setattr(sys, "argv", asked)
    monkeypatch.setattr(simulate, "quiet", lambda: None)
    assert simulate.main() == 1
    said = capsys.readouterr().out
    assert "simulate --seed " in said
    assert "leased to" in said
