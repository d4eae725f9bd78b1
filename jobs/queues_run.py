"""One run of one arm of ``make queues``: with kills or without, watched until every row has its result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from jobs.queues_arms import ARMS, BROKER, CHILD, ENGINE, Arm, Counted
from jobs.queues_row import ROW_S
from jobs.runs import Ratio
from raybatch.errors import OperatorError

CYCLE: Final = (CHILD, ENGINE, BROKER)  #: what is killed, in turn
GIVE_UP_S: Final = 90.0  #: without a new result; far longer than any arm waits before it runs a row again
LOOK_S: Final = 0.2

Say = Callable[[str], None]


@dataclass
class Kill:
    what: str
    at_s: float  #: since the rows were sent
    stall_s: float = 0.0  #: the longest time without a new result from then to the next kill, or the end


@dataclass(frozen=True)
class Run:
    arm: str
    round: int
    rows: int
    counted: Counted
    wall_s: float  #: from the first row sent to the last result seen
    load: float  #: processes that wanted to run on this machine at the end, in the last minute
    kills: tuple[Kill, ...]
    over_time: tuple[tuple[float, int], ...]  #: seconds, results

    @property
    def rows_per_s(self) -> float:
        return (self.rows - self.counted.lost) / self.wall_s


def measure(
    arms: Sequence[str], rows: int, rounds: int, kills: int, kill_every_s: float, say: Say
) -> list[Run]:
    """In each round every arm once without kills and once with; every second round in reverse order."""
    runs = []
    for number in range(rounds):
        for name in arms if number % 2 == 0 else reversed(arms):
            for count in (0, kills):
                with ARMS[name]() as arm:
                    run = run_once(arm, name, number, rows, count, kill_every_s)
                if count and not run.kills:
                    raise OperatorError(
                        f"{name} was done before the first kill: more --rows, or --kill-every less"
                    )
                told = f"{len(run.kills)} kills: {run.rows_per_s:.0f} rows/s, {run.counted}"
                say(f"round {number + 1}: {name}, {told}")
                runs.append(run)
    return runs


def run_once(arm: Arm, name: str, number: int, rows: int, kills: int, kill_every_s: float) -> Run:
    """Kills begin with the first result, those of the broker once all rows are in."""
    begun_mono = time.monotonic()
    watched = _Watched()
    arm.submit(rows)
    kill_at_s = None
    while watched.results < rows and watched.idle_s < GIVE_UP_S:
        arm.keep()
        watched.look(arm.results(), time.monotonic() - begun_mono)
        if kill_at_s is None and watched.results:
            kill_at_s = watched.now_s + kill_every_s
        due = kill_at_s is not None and watched.now_s >= kill_at_s and watched.results < rows
        what = CYCLE[len(watched.kills) % len(CYCLE)]
        if due and len(watched.kills) < kills and (what != BROKER or arm.submitted()):
            arm.kill(what)
            watched.kills.append(Kill(what, watched.now_s))
            kill_at_s = watched.now_s + kill_every_s
        time.sleep(LOOK_S)
    return Run(
        name,
        number,
        rows,
        arm.counted(),
        watched.last_s,
        os.getloadavg()[0],
        tuple(watched.kills),
        tuple(watched.over_time),
    )


class _Watched:
    def __init__(self) -> None:
        self.results = 0
        self.now_s = 0.0
        self.last_s = 0.0  #: when the last new result was seen
        self.kills: list[Kill] = []
        self.over_time: list[tuple[float, int]] = [(0.0, 0)]

    @property
    def idle_s(self) -> float:
        return self.now_s - self.last_s

    def look(self, results: int | None, now_s: float) -> None:
        self.now_s = now_s
        if results is None or results <= self.results:
            return
        if self.kills:
            last = self.kills[-1]
            last.stall_s = max(last.stall_s, now_s - max(last.at_s, self.last_s))
        self.results, self.last_s = results, now_s
        self.over_time.append((now_s, results))


def report(runs: Sequence[Run]) -> dict[str, Any]:
    """As it is written to JSON."""
    return {
        "metric": "rows lost and doubled, stall after a kill in s, rows/s with and without kills",
        "row_s": ROW_S,
        "arms": {
            name: summary([run for run in runs if run.arm == name])
            for name in dict.fromkeys(r.arm for r in runs)
        },
        "runs": [asdict(run) | {"rows_per_s": run.rows_per_s} for run in runs],
    }


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Of one arm. Counters are sums over its runs with kills, the rest medians and spreads."""
    calm, stormy = [run for run in runs if not run.kills], [run for run in runs if run.kills]
    kills = [kill for run in stormy for kill in run.kills]
    ended_again = [run.counted.ended_again for run in stormy]
    return {
        "rows": sum(run.rows for run in stormy),
        "kills": len(kills),
        "lost": sum(run.counted.lost for run in runs),
        "duplicated": sum(run.counted.duplicated for run in runs),
        "begun_again": sum(run.counted.begun_again for run in stormy),
        "ended_again": None if None in ended_again else sum(ended_again),
        "stall_s": {
            what: Ratio.of([kill.stall_s for kill in kills if kill.what == what])
            for what in CYCLE
            if any(kill.what == what for kill in kills)
        },
        "calm_rows_per_s": Ratio.of([run.rows_per_s for run in calm]),
        "stormy_rows_per_s": Ratio.of([run.rows_per_s for run in stormy]),
    }
