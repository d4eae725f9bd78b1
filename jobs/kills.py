"""Kill what runs a batch, over and over, and check every row afterwards: ``python -m jobs.kills``.

On one echo cluster, each kind of process is killed with SIGKILL when 10, 30, 50, 70 and 90 % of a batch's
rows are committed. Exits with 1 when a row was lost, answered twice, or is anything but what it must be.

Engines are restarted without the pause that the scheduler otherwise puts between many deaths
(``scheduler.restarts_free``), so that the last kill recovers as fast as the first.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from jobs.api import clean_up_on_sigterm
from jobs.echo_cluster import EchoCluster, echo_cluster
from jobs.trial import ENDED, Trial, committed, requests

SHARES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)  #: of the rows that are committed when the kill comes
UNHURRIED: Final = "scheduler.restarts_free=1000"


EVERYTHING: Final = "everything"  #: at once, as a power cut, after which raybatch is started again
KINDS: Final = ("engine-child", "engine", "scheduler", "replica", EVERYTHING)  #: roles of processes, and all


@dataclass(frozen=True)
class Round:
    kind: str
    share: float  #: of the rows, committed when the kill came
    lost: int
    duplicated: int
    unexpected: int
    stall_s: float  #: the longest time in which the API showed no newly committed row, from the kill on
    faults: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.unexpected)


def main(
    rounds: Annotated[int, typer.Option(help="Of each kind, at 10, 30, 50, 70 and 90 % in turn.")] = 5,
    rows: Annotated[int, typer.Option(help="Of each batch.")] = 5000,
    rows_per_s: Annotated[float, typer.Option(help="How fast the engine answers.")] = 500.0,
    kinds: Annotated[str, typer.Option(help="With commas between them.")] = ",".join(KINDS),
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rounds there, too.")] = None,
) -> None:
    """Kill what runs a batch and check every row."""
    clean_up_on_sigterm()
    chosen = [kind for kind in kinds.split(",") if kind]
    if unknown := [kind for kind in chosen if kind not in KINDS]:
        raise typer.BadParameter(f"no such kind: {', '.join(unknown)}. Choose from {', '.join(KINDS)}")
    console = Console(stderr=True)
    done = []
    with echo_cluster(UNHURRIED, rows_per_s=rows_per_s) as cluster:
        for round_ in run_rounds(cluster, chosen, rounds, rows):
            console.print(
                f"{round_.kind} at {round_.share:.0%}: {'clean' if round_.clean else round_.faults}"
            )
            done.append(round_)
    Console().print(_table(done))
    if json_path is not None:
        json_path.write_text(json.dumps([asdict(round_) for round_ in done], indent=2))
    if not all(round_.clean for round_ in done):
        raise typer.Exit(1)


def run_rounds(cluster: EchoCluster, kinds: list[str], rounds: int, rows: int) -> Iterator[Round]:
    for number in range(rounds):
        for kind in kinds:
            yield run_round(cluster, kind, SHARES[number % len(SHARES)], rows)


def run_round(cluster: EchoCluster, kind: str, share: float, rows: int) -> Round:
    """One batch with one kill in it, once ``share`` of its rows are committed."""
    trial = Trial(cluster, requests(rows))
    before = committed(trial.wait_committed(round(share * rows)))
    killed_mono = time.monotonic()
    if kind == EVERYTHING:
        cluster.kill_everything()
        cluster.up(engines=0)
    else:
        cluster.signal(kind, signal.SIGKILL)
    stall_s = _longest_stall_s(trial, before, killed_mono)
    verdict = trial.verdict()
    return Round(
        kind,
        before / rows,
        verdict.lost,
        verdict.duplicated,
        verdict.unexpected,
        round(stall_s, 1),
        tuple(verdict.faults),
    )


def _longest_stall_s(trial: Trial, rows: int, since_mono: float) -> float:
    """What the kill cost, where it is longer than an engine waits between two commits."""
    longest_s = 0.0
    while True:
        batch = trial.wait_committed(rows + 1)
        now_mono = time.monotonic()
        longest_s, since_mono, rows = max(longest_s, now_mono - since_mono), now_mono, committed(batch)
        if batch["status"] in ENDED:
            return longest_s


def _table(rounds: list[Round]) -> Table:
    table = Table(*("kind", "committed", "lost", "duplicated", "unexpected", "stall (s)"))
    for round_ in sorted(rounds, key=lambda round_: KINDS.index(round_.kind)):
        counters = (round_.lost, round_.duplicated, round_.unexpected)
        table.add_row(round_.kind, f"{round_.share:.0%}", *map(str, counters), f"{round_.stall_s:.1f}")
    return table


if __name__ == "__main__":
    typer.run(main)
