"""The real scheduler over simulated engines: everything it decides is counted, remembered and drawn out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from jobs.scale import GOAL_ROWS, main, measure, report


def test_every_row_of_every_run_is_decided_on_and_remembered() -> None:
    run = measure(engines=3, rows=400)

    assert run.events["PartWritten"] > 0
    assert run.events["EngineReport"] >= 3 * int(run.virtual_s)
    assert run.spent_s.keys() == run.events.keys()
    assert run.journal_bytes > 0
    assert run.ledger_bytes > 0


def test_the_goal_is_drawn_out_from_the_largest_run() -> None:
    runs = [measure(2, 100), measure(3, 200)]

    expected = report(runs)["expected"]

    assert (expected["engines"], expected["from_rows"]) == (3, 200)
    assert expected["engines_s"] == pytest.approx(runs[1].virtual_s * GOAL_ROWS / 200)


def test_as_a_command_it_draws_and_tells(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    wanted = [
        "--engines=2,3",
        "--rows-per-engine=50",
        f"--json={tmp_path}/s.json",
        f"--plot={tmp_path}/s.png",
    ]
    told = CliRunner().invoke(app, wanted)

    assert told.exit_code == 0, told.output
    assert "keeps up" in told.output
    assert [run["rows"] for run in json.loads((tmp_path / "s.json").read_text())["runs"]] == [100, 150]
    assert (tmp_path / "s.png").stat().st_size > 0
