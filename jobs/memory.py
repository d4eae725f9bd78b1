"""Does memory grow with the batch? ``python -m jobs.memory``: every process's peak, small against large.

One echo cluster runs the batches one after the other, the small one first. PSS counts a page that several
processes share in equal parts, RSS whole for each, so the sum of RSS says more than there is.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import psutil
import typer
from rich.console import Console
from rich.table import Table

from jobs.api import clean_up_on_sigterm
from jobs.echo_cluster import EchoCluster, echo_cluster
from jobs.trial import Trial, requests
from raybatch.actors.cluster_facts import processes
from raybatch.config import Home

ROLES: Final = ("scheduler", "replica", "chore", "engine", "engine-child")
SAMPLE_S: Final = 0.25
MIB: Final = 1 << 20


@dataclass(frozen=True)
class Peak:
    """Of the processes of a role together, at the moment it was highest."""

    pss_bytes: int = 0
    rss_bytes: int = 0


@dataclass(frozen=True)
class Run:
    rows: int
    peaks: dict[str, Peak]


def main(
    rows: Annotated[str, typer.Option(help="Of each batch, in the order they run.")] = "2000,20000",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the peaks there, too.")] = None,
) -> None:
    """Peak memory of every process, for batches of growing size."""
    clean_up_on_sigterm()
    with echo_cluster() as cluster:
        runs = [measure(cluster, int(count)) for count in rows.split(",")]
    Console().print(_table(runs))
    if json_path is not None:
        json_path.write_text(json.dumps([asdict(run) for run in runs], indent=2))


def measure(cluster: EchoCluster, rows: int) -> Run:
    """From the upload to the last byte of the download."""
    with sampled(cluster.home) as peaks:
        verdict = Trial(cluster, requests(rows)).verdict()
    if not verdict.clean:
        raise AssertionError(f"a batch of {rows} rows went wrong: {verdict.faults}")
    return Run(rows, dict(peaks))


@contextmanager
def sampled(home: Home) -> Iterator[dict[str, Peak]]:
    """The peak of each role until the block ends."""
    peaks: dict[str, Peak] = defaultdict(Peak)
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            for role, now in _now(home).items():
                before = peaks[role]
                peaks[role] = Peak(max(before.pss_bytes, now.pss_bytes), max(before.rss_bytes, now.rss_bytes))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _now(home: Home) -> dict[str, Peak]:
    now: dict[str, Peak] = defaultdict(Peak)
    for process in processes(home):
        if process.role in ROLES:
            with contextlib.suppress(psutil.Error):
                memory = psutil.Process(process.pid).memory_full_info()
                sum_ = now[process.role]
                now[process.role] = Peak(sum_.pss_bytes + memory.pss, sum_.rss_bytes + memory.rss)
    return now


def _table(runs: list[Run]) -> Table:
    table = Table("process", title="peak MiB")
    for run in runs:
        table.add_column(f"{run.rows:,} rows: PSS", justify="right")
        table.add_column("RSS", justify="right")
    table.add_column("growth of PSS", justify="right")
    for role in ROLES:
        peaks = [run.peaks.get(role, Peak()) for run in runs]
        cells = [f"{size / MIB:.0f}" for peak in peaks for size in (peak.pss_bytes, peak.rss_bytes)]
        table.add_row(role, *cells, f"{(peaks[-1].pss_bytes - peaks[0].pss_bytes) / MIB:+.0f}")
    return table


if __name__ == "__main__":
    typer.run(main)
