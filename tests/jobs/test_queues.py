"""What ``make queues`` counts and times, on a stand-in. The real ones need servers and minutes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jobs import queues_run, queues_servers
from jobs.queues_arms import BROKER, CHILD, ENGINE, Counted
from jobs.queues_run import Kill, Run, run_once, summary
from jobs.queues_servers import Kept
from raybatch.errors import OperatorError


class Standin:
    """Has one more result each time it is looked at; the broker's kill costs it the last row."""

    def __init__(self, rows_to_submit: int = 0) -> None:
        self.killed: list[str] = []
        self.kept = 0
        self._looks = 0
        self._rows_to_submit = rows_to_submit

    def submit(self, rows: int) -> None:
        self._rows = rows

    def submitted(self) -> bool:
        return self._looks >= self._rows_to_submit

    def results(self) -> int | None:
        self._looks += 1
        return min(self._looks, self._rows - (BROKER in self.killed))

    def kill(self, what: str) -> None:
        self.killed.append(what)

    def keep(self) -> None:
        self.kept += 1

    def counted(self) -> Counted:
        return Counted(int(BROKER in self.killed), 0, 0, None)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues_run, "LOOK_S", 0.0)
    monkeypatch.setattr(queues_run, "GIVE_UP_S", 0.05)


def test_kills_come_in_turn_and_what_never_comes_is_given_up() -> None:
    arm = Standin()

    run = run_once(arm, "stand-in", 0, rows=50, kills=4, kill_every_s=0.0)

    assert arm.killed == [kill.what for kill in run.kills] == [CHILD, ENGINE, BROKER, CHILD]
    assert run.counted.lost == 1
    assert run.over_time[-1][1] == 49
    assert arm.kept > 0


def test_the_broker_lives_until_all_rows_are_in() -> None:
    arm = Standin(rows_to_submit=10_000)

    run_once(arm, "stand-in", 0, rows=50, kills=4, kill_every_s=0.0)

    assert arm.killed == [CHILD, ENGINE]


def test_an_arm_is_summed_up_over_its_rounds() -> None:
    def run(number: int, wall_s: float, kills: tuple[Kill, ...], counted: Counted) -> Run:
        return Run("a", number, 100, counted, wall_s, 0.0, kills, ())

    clean = Counted(0, 0, 0, 0)
    told = summary(
        [
            run(0, 1.0, (), clean),
            run(0, 2.0, (Kill(CHILD, 0.5, 0.3), Kill(BROKER, 1.0, 4.0)), Counted(1, 0, 3, 2)),
            run(1, 2.0, (), clean),
            run(1, 4.0, (Kill(CHILD, 0.5, 0.5),), Counted(0, 1, 4, 1)),
        ]
    )

    assert (told["rows"], told["kills"]) == (200, 3)
    assert (told["lost"], told["duplicated"], told["begun_again"], told["ended_again"]) == (1, 1, 7, 3)
    assert told["stall_s"].keys() == {CHILD, BROKER}
    assert told["stall_s"][CHILD].median == pytest.approx(0.4)
    assert told["calm_rows_per_s"].median == pytest.approx(75.0)
    assert told["stormy_rows_per_s"].high == pytest.approx(49.5)


def test_a_kept_process_is_started_again(tmp_path: Path) -> None:
    kept = Kept(["sleep", "1000"], tmp_path / "log")
    first = kept.pid
    try:
        os.kill(first, signal.SIGKILL)
        while kept.pid == first:
            kept.keep()
        os.kill(kept.pid, 0)
    finally:
        kept.close()
    with pytest.raises(ProcessLookupError):
        os.kill(kept.pid, 0)


def test_a_server_that_is_not_there_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(queues_servers, "DEBIAN_POSTGRES", str(tmp_path))

    with pytest.raises(OperatorError, match="apt-get install redis-server"):
        queues_servers.Redis(tmp_path / "redis")
    with pytest.raises(OperatorError, match="apt-get install postgresql"):
        queues_servers.Postgres(tmp_path / "postgres")
