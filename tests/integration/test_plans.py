"""A seed's plan of the simulation, on real processes."""

from __future__ import annotations

import pytest

from tests.simulation.on_processes import play_all


@pytest.mark.cluster
@pytest.mark.slow
def test_the_plan_of_a_seed_costs_real_processes_no_row() -> None:
    (played,) = play_all(range(3, 4), steps=80)
    assert played.wrong == []
    assert played.clean
    assert any(what.startswith(("kills", "deaths", "sleeps")) for what in played.done), played.done
