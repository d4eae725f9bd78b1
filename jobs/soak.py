"""Hours of use, and what grows meanwhile: ``python -m jobs.soak --hours 1``.

On the echo engine; jobs/soak_use.py says what is done to it, jobs/soak_samples.py what is looked at. Exits
with 1 when a row was lost, doubled or wrong, or when a process's memory grows by more than ``--growth-max``.

It refuses to judge the memory of processes that it kills (``--kill-every``): each of them was young again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console

from jobs import plots, tables
from jobs.api import clean_up_on_sigterm
from jobs.echo_cluster import echo_cluster
from jobs.kills import UNHURRIED
from jobs.soak_samples import HOUR_S, Sampler, slopes_an_hour
from jobs.soak_use import Use

WARM_UP: Final = 0.25  #: of the whole time; growth is judged by what comes after
JUDGED: Final = ("scheduler", "replica", "engine", "engine-child")  #: roles that live throughout


def main(
    hours: Annotated[float, typer.Option(min=0.001, help="How long.")] = 1.0,
    rows_per_s: Annotated[float, typer.Option(help="How fast the engine answers.")] = 300.0,
    kill_every: Annotated[float, typer.Option(help="Seconds between two kills; 0: none.")] = 0.0,
    growth_max: Annotated[float, typer.Option(help="MiB an hour that a process may grow by.")] = 32.0,
    sample_every: Annotated[float, typer.Option(min=0.1, help="Seconds between two samples.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of sizes and fates.")] = 1,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write samples and slopes there.")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="Draw them there, as PNG.")] = None,
) -> None:
    """Use it for hours and see what grows."""
    clean_up_on_sigterm()
    say = Console(stderr=True).print
    with (
        echo_cluster(UNHURRIED, rows_per_s=rows_per_s) as cluster,
        Sampler(cluster.home, sample_every) as sampler,
    ):
        tally = Use(cluster, random.Random(seed), kill_every, say).run(hours * HOUR_S)
    samples = sampler.samples
    slopes = slopes_an_hour(samples, WARM_UP)
    grown = [] if kill_every else too_steep(slopes, growth_max)
    Console().print(tables.soak(tally, slopes, samples))
    report = {"tally": tally, "slopes_an_hour": slopes, "grown": grown, "samples": samples}
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    if plot_path is not None:
        plots.soak(samples, WARM_UP, plot_path)
    for words in (*tally.faults, *grown):
        say(words)
    if tally.faults or grown:
        raise typer.Exit(1)


def too_steep(slopes: Mapping[str, float], growth_max: float) -> list[str]:
    """A line for each role whose memory grows by more MiB an hour than it may."""
    judged = {role: slopes.get(f"{role} MiB", 0.0) for role in JUDGED}
    return [
        f"{role} grows by {slope:.1f} MiB an hour, more than --growth-max={growth_max:g}"
        for role, slope in judged.items()
        if slope > growth_max
    ]


if __name__ == "__main__":
    typer.run(main)
