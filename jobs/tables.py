"""The benchmarks' figures as tables for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.table import Table

from jobs import intake_speed, result_speed
from jobs.memory import MIB
from jobs.runs import Ratio, Run
from jobs.sharing import Round


def parity(runs: list[Run], ratios: Mapping[str, Ratio]) -> Iterator[Table]:
    arms = list(dict.fromkeys(run.arm for run in runs))
    yield _rates(runs, ratios, arms)
    for arm in arms:
        yield _where(arm, [run for run in runs if run.arm == arm])


def sharing(rounds: list[Round], ratios: Mapping[str, Ratio]) -> Table:
    table = Table("seconds", "small alone", "small beside", "large alone", "both", title="fair sharing")
    for round_ in rounds:
        times = (round_.small_alone_s, round_.small_beside_s, round_.large_alone_s, round_.both_s)
        table.add_row(f"round {round_.number + 1}", *(f"{seconds:.2f}" for seconds in times))
    table.caption = "\n".join(f"{name}: {_told(ratio)}" for name, ratio in ratios.items())
    return table


def intake(rounds: list[intake_speed.Round], ratios: Mapping[str, Ratio]) -> Table:
    table = Table("seconds", "json.loads", "upload", "create to in_progress", "growth MiB", title="intake")
    for round_ in rounds:
        times = (round_.loads_s, round_.upload_s, round_.validate_s)
        growth = sum(round_.growth_bytes.values()) / MIB
        table.add_row(f"round {round_.number + 1}", *(f"{seconds:.2f}" for seconds in times), f"{growth:.0f}")
    table.caption = "\n".join(f"{name}: {_told(ratio)}" for name, ratio in ratios.items())
    return table


def results(rounds: list[result_speed.Round], report: Mapping[str, Any]) -> Table:
    table = Table(
        "seconds", "last row to completed", "download", "static file", "SQL", "DuckDB", title="results"
    )
    for round_ in rounds:
        times = (
            round_.completed_after_s,
            round_.download_s,
            round_.static_s,
            round_.sql_s,
            round_.straight_s,
        )
        table.add_row(f"round {round_.number + 1}", *(f"{seconds:.3f}" for seconds in times))
    ratios = {"completed after s": report["completed_after_s"], **report["ratio"]}
    table.caption = "\n".join(f"{name}: {_told(ratio)}" for name, ratio in ratios.items())
    return table


def _rates(runs: list[Run], ratios: Mapping[str, Ratio], arms: list[str]) -> Table:
    table = Table("output tokens/s", *arms, "ratio", title="engine parity")
    for name, ratio in ratios.items():
        rates = [
            _median(getattr(run, f"{name}_tokens_per_s") for run in runs if run.arm == arm) for arm in arms
        ]
        table.add_row(name, *(f"{rate:.1f}" for rate in rates), _told(ratio))
    return table


def _where(arm: str, runs: list[Run]) -> Table:
    """Where a run's time goes, by the clock and by the processors; medians."""
    table = Table("part", "seconds", title=f"{arm}: where the time goes")
    for name in runs[0].phases_s:
        table.add_row(f"to {name}", f"{_median(run.phases_s[name] for run in runs):.2f}")
    table.add_row("in all", f"{_median(run.wall_s for run in runs):.2f}", end_section=True)
    table.add_row("steady window", f"{_median(run.steady_s for run in runs):.2f}", end_section=True)
    for kind in sorted({kind for run in runs for kind in run.cpu_s}):
        table.add_row(f"CPU of {kind}", f"{_median(run.cpu_s.get(kind, 0.0) for run in runs):.2f}")
    table.add_row("CPU of the other arm's idle engine", f"{_median(run.idle_cpu_s for run in runs):.2f}")
    return table


def _median(figures: Iterable[float]) -> float:
    return statistics.median(figures)


def _told(ratio: Ratio) -> str:
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
