"""The acceptance script ticks every box, on a small scale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import acceptance

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_every_box_is_ticked_with_its_evidence(tmp_path: Path) -> None:
    written = tmp_path / "boxes.json"
    done = CliRunner().invoke(acceptance.app, ["--rows", "4000", "--silent-s", "5", "--json", str(written)])
    boxes = json.loads(written.read_text()) if written.exists() else []
    assert [box["asked"] for box in boxes if not box["ticked"]] == [], done.output
    assert done.exit_code == 0, done.output
    assert len(boxes) == len(acceptance.BOXES)
    assert all(box["evidence"] for box in boxes)
