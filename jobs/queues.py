"""The same crash load on raybatch and on famous task queues: ``python -m jobs.queues``.

Rows of a fixed pretended cost, the same number at once everywhere; processes that run rows and the one that
hands them out are killed with SIGKILL. docs/queues.md says how each arm is set up and what counts as what.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from jobs import plots, queues_run, tables
from jobs.api import command
from jobs.queues_arms import ARMS


def main(
    rows: Annotated[int, typer.Option(min=1, help="Of each run.")] = 5000,
    rounds: Annotated[int, typer.Option(min=1, help="Every second one in reverse order.")] = 1,
    kills: Annotated[int, typer.Option(min=1, help="In each run that has any.")] = 6,
    kill_every: Annotated[float, typer.Option(min=0.1, help="Seconds between two kills.")] = 4.0,
    arms: Annotated[str, typer.Option(help="With commas between them.")] = ",".join(ARMS),
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures there, too.")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="Draw them there, as PNG.")] = None,
) -> None:
    """Lost, doubled, stalled, rows a second: raybatch beside Celery and Procrastinate, under kills."""
    chosen = [arm for arm in arms.split(",") if arm]
    if unknown := [arm for arm in chosen if arm not in ARMS]:
        raise typer.BadParameter(f"no such arm: {', '.join(unknown)}. Choose from {', '.join(ARMS)}")
    runs = queues_run.measure(chosen, rows, rounds, kills, kill_every, Console(stderr=True).print)
    report = queues_run.report(runs)
    Console().print(tables.queues(report["arms"]))
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    if plot_path is not None:
        plots.queues(runs, plot_path)


if __name__ == "__main__":
    command(main)
