"""What the control-plane benchmark makes of its runs, and that its rows are free. Servers are not needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.control import ACCEPTED, COMMITTED, DOWNLOADED, RAYBATCH, Run, Sizes, measure, report
from jobs.queues_arms import Load

SIZES = Sizes(rows=100, peer_rows=10, engines=1, load=Load(row_s=0.0))


def test_rates_are_compared_within_rounds() -> None:
    """The machine is half as fast in the second round, for both."""
    runs = [_run(RAYBATCH, 0, 100, 1.0), _run("peer", 0, 10, 1.0)]
    runs += [_run("peer", 1, 10, 2.5), _run(RAYBATCH, 1, 100, 2.0)]

    told = report(runs, SIZES)

    assert told["ratio"]["÷ peer"].low == pytest.approx(10.0)
    assert told["ratio"]["÷ peer"].high == pytest.approx(12.5)
    assert told["arms"][RAYBATCH].high == pytest.approx(100.0)


def test_every_second_round_goes_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    played = []

    def arm(name: str, rows: int) -> dict[str, float]:
        played.append((name, rows))
        return {ACCEPTED: 0.1, COMMITTED: 0.2, DOWNLOADED: 0.3}

    arms = {name: lambda rows, _, name=name: arm(name, rows) for name in (RAYBATCH, "a", "b")}
    monkeypatch.setattr("jobs.control.ARMS", arms)

    measure(list(arms), SIZES, 2, lambda _: None)

    assert played == [(RAYBATCH, 100), ("a", 10), ("b", 10), ("b", 10), ("a", 10), (RAYBATCH, 100)]


@pytest.mark.parametrize(("told", "writes"), [({}, 0), ({"QUEUES_TALLY": "tally"}, 1)])
def test_a_row_writes_only_where_somebody_counts(told: dict[str, str], writes: int, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {"PYTHONPATH": str(root), "QUEUES_ROW_S": "0", **told}
    code = "from jobs.queues_row import ROW_S, begin, end; begin(); assert ROW_S == 0"
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True, timeout=60)

    assert len(list(tmp_path.iterdir())) == writes


def _run(arm: str, round_: int, rows: int, wall_s: float) -> Run:
    return Run(arm, round_, rows, {ACCEPTED: 0.0, COMMITTED: wall_s / 2, DOWNLOADED: wall_s}, 0.0)
