"""Where the scheduler ends: ``python -m jobs.scale``, its decisions, journal and ledger over 1,000 engines.

Engines are a step model in virtual time (``jobs.virtual``), so one machine can have any number of them; what
the scheduler does is done and timed: decide, apply, fsync the journal, commit the ledger, hundreds of events
at a time as its loop takes them. It keeps up as long as a second of the engines costs it less than a second.
Ray, HTTP and the parts themselves are left out.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import psutil
import typer
from rich.console import Console

from jobs import plots, tables
from jobs.api import command
from jobs.virtual import Shape, VirtualCluster
from raybatch.core import changes as c
from raybatch.core import events as e
from raybatch.core.commands import StartCompaction
from raybatch.core.decide import decide
from raybatch.core.decision import Decision
from raybatch.core.model import PartFile
from raybatch.core.policy import Policy
from raybatch.ledger.durable import JOURNAL_NAME, DurableMemory

SHAPE: Final = Shape(alpha_s=0.2, beta_s=0.0, concurrency=64)
ROW_TOKENS: Final = 10  #: with SHAPE an engine does 32 rows a second
TURN_EVENTS: Final = 512  #: remembered together, as the scheduler's loop does
TICK_S: Final = 1.0
GOAL_ROWS: Final = 100_000_000
MIB: Final = 1 << 20


@dataclass
class Run:
    engines: int
    rows: int
    virtual_s: float = 0.0
    events: dict[str, int] = field(default_factory=dict)  #: by kind
    spent_s: dict[str, float] = field(default_factory=dict)  #: on deciding and applying them
    slowest_s: dict[str, float] = field(default_factory=dict)  #: on one of them
    remember_s: float = 0.0  #: journal and ledger
    journal_bytes: int = 0
    ledger_bytes: int = 0
    grown_bytes: int = 0  #: of this process, engines included
    real_s: float = 0.0  #: of all, engines included

    @property
    def decisions(self) -> int:
        return sum(self.events.values())

    @property
    def decisions_per_s(self) -> float:
        return self.decisions / sum(self.spent_s.values())

    @property
    def busy(self) -> float:
        """Seconds of the scheduler for a second of its engines: below 1 it keeps up."""
        return (sum(self.spent_s.values()) + self.remember_s) / self.virtual_s


def main(
    engines: Annotated[str, typer.Option(help="How many, run by run, with commas between.")] = "10,100,1000",
    rows_per_engine: Annotated[str, typer.Option(help="With each of those numbers of engines.")] = "300,1000",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures there, too.")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="Draw them there, as PNG.")] = None,
) -> None:
    """The scheduler's decisions, journal and ledger over many simulated engines."""
    runs = []
    for count in map(int, engines.split(",")):
        for rows in map(int, rows_per_engine.split(",")):
            runs.append(measure(count, count * rows))
            told = f"{count:,} engines, {count * rows:,} rows: {runs[-1].decisions_per_s:,.0f} decisions/s"
            Console(stderr=True).print(f"{told}, busy {runs[-1].busy:.3f}")
    figures = report(runs)
    Console().print(tables.scale(runs, figures["expected"]))
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1))
    if plot_path is not None:
        plots.scale(runs, plot_path)


def measure(engines: int, rows: int) -> Run:
    """One batch of so many rows, from its creation to its end."""
    run = Run(engines, rows)
    began_mono, before_bytes = time.monotonic(), psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory(prefix="raybatch-scale-") as folder:
        cluster = _Weighed(engines, run, Path(folder))
        cluster.create(bytes([ROW_TOKENS]) * rows)
        cluster.run()
        cluster.remember()
        run.virtual_s = cluster.timeline.now_s
        run.grown_bytes = psutil.Process().memory_info().rss - before_bytes
        run.journal_bytes = _size_bytes(Path(folder) / JOURNAL_NAME)
        run.ledger_bytes = (
            _size_bytes(Path(folder)) - run.journal_bytes - _size_bytes(Path(folder) / "reserve")
        )
        cluster.close()
    run.real_s = time.monotonic() - began_mono
    return run


def report(runs: list[Run]) -> dict[str, Any]:
    """As it is written to JSON. What the goal would take is drawn out from the largest run, not run."""
    largest = max(runs, key=lambda run: (run.engines, run.rows))
    times = GOAL_ROWS / largest.rows
    return {
        "metric": "decisions/s of the scheduler over simulated engines; seconds of it for a second of theirs",
        "expected": {
            "rows": GOAL_ROWS,
            "engines": largest.engines,
            "from_rows": largest.rows,
            "scheduler_s": times * (sum(largest.spent_s.values()) + largest.remember_s),
            "engines_s": times * largest.virtual_s,
            "journal_bytes": times * largest.journal_bytes,
        },
        "runs": [asdict(run) | {"decisions_per_s": run.decisions_per_s, "busy": run.busy} for run in runs],
    }


class _Weighed(VirtualCluster):
    """Everything the scheduler does is timed and remembered; parts are merged as soon as that is asked."""

    def __init__(self, engines: int, run: Run, folder: Path) -> None:
        super().__init__(
            [SHAPE] * engines, Policy(requests_max=2 * GOAL_ROWS, queued_requests_max=2 * GOAL_ROWS)
        )
        self._run = run
        self._memory = DurableMemory(folder)
        self.state = self._memory.load()
        self._changes: list[c.DurableChange] = []
        self._images: list[Any] = []
        self._turns = 0
        self.timeline.after(TICK_S, self._tick)

    def turn(self, event: e.Event, now: e.Now) -> Decision:
        began_mono = time.perf_counter()
        decision = decide(self.state, event, now, self.policy)
        images = [image for change in decision.changes for image in self.state.apply(change)]
        took_s = time.perf_counter() - began_mono
        kind = type(event).__name__
        self._run.events[kind] = 1 + self._run.events.get(kind, 0)
        self._run.spent_s[kind] = took_s + self._run.spent_s.get(kind, 0.0)
        self._run.slowest_s[kind] = max(took_s, self._run.slowest_s.get(kind, 0.0))
        self._changes += [change for change in decision.changes if c.is_durable(change)]
        self._images += images
        self._turns += 1
        if self._turns >= TURN_EVENTS:
            self.remember()
        for asked in decision.commands:
            if isinstance(asked, StartCompaction):
                self.timeline.after(TICK_S, partial(self._merge, asked))
        return decision

    def remember(self) -> None:
        began_mono = time.perf_counter()
        if self._images:
            self._memory.remember(tuple(self._changes), tuple(self._images), time.time())
            self._memory.keep_house(self.state, time.time())
        self._changes, self._images, self._turns = [], [], 0
        self._run.remember_s += time.perf_counter() - began_mono

    def close(self) -> None:
        self._memory.close()

    def _tick(self) -> None:
        self.say(e.Tick())
        self.timeline.after(TICK_S, self._tick)

    def _merge(self, asked: StartCompaction) -> None:
        part_id = self.draw("merged")
        rows, level = sum(part.rows for part in asked.parts), 1 + max(part.level for part in asked.parts)
        part = PartFile(part_id, part_id, rows, rows, "crc32c:0", level)
        self.say(e.PartsCompacted(asked.batch_id, part, tuple(part.part_id for part in asked.parts)))


def _size_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    command(main)
