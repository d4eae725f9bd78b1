"""The acceptance script ticks its boxes, on a small scale: those that no other test plays on a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import acceptance

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


ONLY = "refusals,failed_and_retried,gpu_watched,dead_or_alive"


@pytest.mark.long
def test_the_boxes_are_ticked_with_their_evidence(tmp_path: Path) -> None:
    written = tmp_path / "boxes.json"
    done = CliRunner().invoke(
        acceptance.app, ["--rows", "2000", "--silent-s", "5", "--only", ONLY, "--json", str(written)]
    )
    boxes = json.loads(written.read_text()) if written.exists() else []
    assert [box["asked"] for box in boxes if not box["ticked"]] == [], done.output
    assert done.exit_code == 0, done.output
    assert len(boxes) == len(ONLY.split(","))
    assert all(box["evidence"] for box in boxes)
