"""Break what can break under a running batch, one fault after the other: ``python -m jobs.faults``.

Real processes on one echo cluster of two engines. After each fault every row of the batch is checked against
its input by a checker that shares no code with raybatch. Exits with 1 when a row was lost, answered twice, is
anything but what it must be, or when something else did not hold.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from jobs import fault_clients, fault_crash, fault_machine, fault_processes, fault_rows
from jobs.api import clean_up_on_sigterm
from jobs.echo_cluster import EchoCluster, make_cluster
from jobs.fault_case import ROWS, ROWS_PER_S, SETTINGS, Outcome
from jobs.fault_shim import Shim
from raybatch.crash_points import VARIABLE, arm

PAIRS: Final = 10
POISON_ROWS: Final = 5000
TABLE_WIDTH: Final = 140  #: in a file or a pipe too


@dataclass(frozen=True)
class Bench:
    """A cluster that can be hurt in every way known here."""

    cluster: EchoCluster
    crash_points: Path  #: where they are armed
    shim: Shim
    rows: int
    pairs: int = PAIRS
    seed: int = 0


FAULTS: Final[dict[str, tuple[Callable[[Bench], Iterator[Outcome]], ...]]] = {
    "F1": (lambda b: fault_processes.engine_child(b.cluster, b.rows),),
    "F2": (lambda b: fault_processes.engine_actor(b.cluster, b.rows),),
    "F3": (lambda b: fault_processes.scheduler(b.cluster, b.rows),),
    "F4": (
        lambda b: fault_clients.upload_killed(b.cluster, b.rows),
        lambda b: fault_clients.create_killed(b.cluster, b.crash_points, b.rows),
        lambda b: fault_clients.download_killed(b.cluster, b.rows),
    ),
    "F5": (lambda b: fault_processes.everything(b.cluster, b.rows),),
    "F6": (
        lambda b: fault_crash.singles(b.cluster, b.crash_points, b.rows),
        lambda b: fault_crash.removal(b.cluster, b.crash_points, b.rows),
        lambda b: fault_crash.pairs(b.cluster, b.crash_points, b.rows, b.pairs, b.seed),
    ),
    # before F7: an actor takes a sleep of its own for a long step, and is more patient ever after
    "F9": (lambda b: fault_processes.hang(b.cluster, b.rows),),
    "F7": (lambda b: fault_processes.zombie(b.cluster, b.rows),),
    "F8": (lambda b: fault_clients.lost_reply(b.cluster, b.crash_points, b.rows),),
    "F10": (
        lambda b: fault_rows.outside_kills(b.cluster, b.rows),
        lambda b: fault_rows.one_poison(b.cluster, POISON_ROWS),
        lambda b: fault_rows.two_poisons(b.cluster, b.rows),
    ),
    "F12": (
        lambda b: fault_machine.disk_full(b.cluster, b.shim, b.rows),
        lambda b: fault_machine.failed_fsync(b.cluster, b.shim, b.rows),
    ),
    "F15": (lambda b: fault_machine.clock(b.cluster, b.shim, b.rows),),
    "F16": (lambda b: fault_processes.head(b.cluster, b.rows),),
    "F18": (lambda b: fault_processes.two_schedulers(b.cluster, b.rows),),
    "F19": (
        lambda b: fault_clients.repeated_create(b.cluster, b.rows),
        lambda b: fault_clients.cut_off(b.cluster, b.rows),
        lambda b: fault_clients.slow_senders(b.cluster, b.rows),
    ),
}
REPEATED: Final = ("F1", "F2", "F3")  #: whose recovery is told as a median


def main(
    only: Annotated[str, typer.Option(help="Faults with commas between them.")] = ",".join(FAULTS),
    rows: Annotated[int, typer.Option(help="Of each batch.")] = ROWS,
    rounds: Annotated[int, typer.Option(help=f"Of {', '.join(REPEATED)}.")] = 5,
    pairs: Annotated[int, typer.Option(help="Of crash points, drawn from all pairs.")] = PAIRS,
    seed: Annotated[int, typer.Option(help="Another one draws other pairs.")] = 0,
    json_path: Annotated[Path, typer.Option("--json", help="Where the outcomes go.")] = Path("faults.json"),
) -> None:
    """Break what can break under a running batch, and check every row."""
    clean_up_on_sigterm()
    chosen = [fault for fault in only.split(",") if fault]
    if unknown := [fault for fault in chosen if fault not in FAULTS]:
        raise typer.BadParameter(f"no such fault: {', '.join(unknown)}. Choose from {', '.join(FAULTS)}")
    told = Console(stderr=True)
    outcomes: list[Outcome] = []
    with bench(rows, pairs, seed) as broken:
        for fault in chosen:
            for outcome in _outcomes(broken, fault, rounds if fault in REPEATED else 1):
                verdict = "clean" if outcome.clean else "; ".join(outcome.wrong)
                told.print(f"{outcome.fault} {outcome.case}: {verdict}", markup=False)
                outcomes.append(outcome)
                json_path.write_text(json.dumps([asdict(known) for known in outcomes], indent=2))
    table = Console()
    table.width = max(table.width, TABLE_WIDTH)
    table.print(_table(outcomes))
    if not all(outcome.clean for outcome in outcomes):
        raise typer.Exit(1)


@contextmanager
def bench(rows: int, pairs: int = PAIRS, seed: int = 0) -> Iterator[Bench]:
    """Up, with all that breaks it at hand; its scheduler has died once already, at its journal's begin."""
    with tempfile.TemporaryDirectory(prefix="raybatch-faults-") as name:
        points = Path(name) / "crash_points"
        points.mkdir()
        arm(points, fault_crash.FIRST_START)
        tally = f"echo.tally={Path(name) / 'begun'}"
        cluster = make_cluster(*SETTINGS, tally, rows_per_s=ROWS_PER_S)
        shim = Shim(Path(name), cluster.home.root)
        os.environ[VARIABLE] = str(points)
        try:
            with shim.preloaded():
                cluster.up()
                yield Bench(cluster, points, shim, rows, pairs, seed)
        finally:
            del os.environ[VARIABLE]
            cluster.close()


def _outcomes(broken: Bench, fault: str, rounds: int) -> Iterator[Outcome]:
    for case in FAULTS[fault]:
        for _ in range(rounds):
            try:
                yield from case(broken)
            except Exception as error:  # whatever one case came to, the others are worth knowing
                yield Outcome(fault, "did not end", wrong=(f"{type(error).__name__}: {error}",))


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(
        "fault", "what", "rows", "lost", "duplicated", "unexpected", "again", "redone", "recovery (s)", "else"
    )
    for outcome in outcomes:
        verdict = (outcome.lost, outcome.duplicated, outcome.unexpected)
        counters = (outcome.rows, *verdict, outcome.again, outcome.redone)
        recovery = "" if outcome.recovery_s is None else f"{outcome.recovery_s:.1f}"
        table.add_row(
            outcome.fault, outcome.case, *map(str, counters), recovery, str(len(outcome.wrong) or "")
        )
    return table


if __name__ == "__main__":
    typer.run(main)
