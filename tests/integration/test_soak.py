"""Two minutes of ``make soak``. Growth in so short a time is that of a start, and is not judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from jobs.soak import main

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_two_minutes_of_use_and_kills_lose_no_row(tmp_path: Path) -> None:
    json_path, plot_path = tmp_path / "soak.json", tmp_path / "soak.png"
    app = Typer()
    app.command()(main)
    asked = [f"--hours={2 / 60}", "--kill-every=25", "--sample-every=2"]

    ended = CliRunner().invoke(app, [*asked, f"--json={json_path}", f"--plot={plot_path}"])

    assert ended.exit_code == 0, ended.output
    assert plot_path.read_bytes().startswith(PNG)
    report = json.loads(json_path.read_text())
    tally = report["tally"]
    assert (tally["lost"], tally["duplicated"], tally["unexpected"]) == (0, 0, 0)
    assert tally["rows"] > 0
    assert sum(tally["kills"].values()) > 0
    assert {"scheduler MiB", "engine descriptors", "journal MiB", "files"} <= report["slopes_an_hour"].keys()
