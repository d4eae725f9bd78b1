"""One large batch through everything, and what each process holds meanwhile: ``python -m jobs.large``.

On the echo engine, twice: with a desktop's step times divided by 100, and as fast as it can. Every row is
checked. Memory should follow the machine, not the batch: what is told of each process is its level in the
second quarter of the run, when every cache is warm, and in the last.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from jobs import plots
from jobs.api import command
from jobs.echo_cluster import echo_cluster
from jobs.memory import ROLES
from jobs.prompts import echoes
from jobs.soak_samples import AT, Sample, Sampler
from jobs.trial import ENDED, Trial, committed, upload_of

SAMPLE_S: Final = 1.0
LOOK_S: Final = 0.5
WARM_UP_ROWS: Final = 500
#: of a model of 4 billion parameters on a card of 16 GB, 64 rows at once: 20 ms and 0.2 ms a running row
DESKTOP_HUNDREDTH: Final = ("echo.alpha_ms=0.2", "echo.beta_ms=0.002", "echo.concurrency=64")
COURSES: Final = {"a desktop's steps ÷ 100": DESKTOP_HUNDREDTH, "as fast as it can": ()}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Course:
    """One batch, from its upload on."""

    name: str
    rows: int
    upload_bytes: int
    running_at_s: float  #: when it was ``in_progress``
    ended_at_s: float
    samples: list[Sample]
    progress: list[tuple[float, int]]  #: seconds, rows committed

    @property
    def rows_per_s(self) -> float:
        """While it ran."""
        return self.rows / (self.ended_at_s - self.running_at_s)

    def level(self, role: str, begin: float, end: float) -> float:
        """Median MiB between two shares of the time it ran; NaN when it was not seen then."""
        took_s = self.ended_at_s - self.running_at_s
        low, high = (self.running_at_s + share * took_s for share in (begin, end))
        name = f"{role} MiB"
        held = [sample[name] for sample in self.samples if low <= sample[AT] <= high and name in sample]
        return statistics.median(held) if held else math.nan

    def peak(self, role: str) -> float:
        """MiB, from the upload to the end."""
        name = f"{role} MiB"
        return max((sample[name] for sample in self.samples if name in sample), default=math.nan)


def main(
    rows: Annotated[int, typer.Option(min=1, help="Of each batch.")] = 200_000,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the samples there, too.")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="Draw them there, as PNG.")] = None,
) -> None:
    """A batch of 200,000 rows, and every process's memory over time."""
    say = Console(stderr=True).print
    courses = [measure(name, rows, assignments, say) for name, assignments in COURSES.items()]
    for course in courses:
        Console().print(table(course))
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(report(courses)), indent=1))
    if plot_path is not None:
        plots.large(courses, plot_path)


def measure(name: str, rows: int, assignments: tuple[str, ...], say: Say) -> Course:
    """Raises AssertionError when a row went wrong."""
    with echo_cluster(*assignments) as cluster:
        say(f"{name}: warming up")
        _check(Trial(cluster, upload_of(echoes(WARM_UP_ROWS, seed=1))))
        upload = upload_of(echoes(rows, seed=0))
        with Sampler(cluster.home, SAMPLE_S) as sampler:
            begun_at, begun_mono = time.time(), time.monotonic()
            trial = Trial(cluster, upload)
            progress = _followed(trial, begun_mono)
        running_at = cluster.batch(trial.batch_id).in_progress_at
        assert running_at is not None
        course = Course(
            name, rows, len(upload), running_at - begun_at, progress[-1][0], sampler.samples, progress
        )
        say(f"{name}: {course.rows_per_s:,.0f} rows/s; checking every row")
        _check(trial)
    return course


def report(courses: list[Course]) -> dict[str, Any]:
    """As it is written to JSON."""
    return {
        "metric": "memory of each process while one large batch runs (MiB of PSS)",
        "courses": [
            asdict(course) | {"rows_per_s": course.rows_per_s, "levels": levels(course)} for course in courses
        ],
    }


def levels(course: Course) -> dict[str, dict[str, float]]:
    return {
        role: {
            "second quarter": course.level(role, 0.25, 0.5),
            "last quarter": course.level(role, 0.75, 1.0),
            "peak": course.peak(role),
        }
        for role in ROLES
    }


def table(course: Course) -> Table:
    title = f"{course.name}: {course.rows:,} rows, {course.rows_per_s:,.0f} a second"
    told = Table("MiB (PSS)", "second quarter", "last quarter", "peak", title=title)
    for role, figures in levels(course).items():
        told.add_row(role, *("-" if math.isnan(figure) else f"{figure:.0f}" for figure in figures.values()))
    told.caption = f"upload {course.upload_bytes / 1e6:.0f} MB in one request; all rows checked"
    return told


def _followed(trial: Trial, begun_mono: float) -> list[tuple[float, int]]:
    progress: list[tuple[float, int]] = []
    while True:
        seen = trial.look()
        if seen is not None:
            progress.append((time.monotonic() - begun_mono, committed(seen)))
            if seen["status"] in ENDED:
                return progress
        time.sleep(LOOK_S)


def _check(trial: Trial) -> None:
    if faults := trial.verdict().faults:
        raise AssertionError(f"{trial.batch_id} went wrong: {faults}")


if __name__ == "__main__":
    command(main)
