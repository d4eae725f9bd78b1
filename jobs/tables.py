"""The benchmarks' figures as tables for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from jobs import barriers as barred
from jobs import control as control_runs
from jobs import intake_speed, result_speed
from jobs import pollers as asked
from jobs import tail as ends
from jobs.eta import SHARES, Course
from jobs.runs import Ratio, Run
from jobs.sharing import Round
from jobs.soak_samples import AT, Sample
from jobs.soak_use import Tally
from jobs.starts import KINDS, Start

if TYPE_CHECKING:
    from jobs.scale import Run as Weighing

MIB = 1 << 20


def parity(runs: list[Run], ratios: Mapping[str, Ratio]) -> Iterator[Table]:
    arms = list(dict.fromkeys(run.arm for run in runs))
    yield _rates(runs, ratios, arms)
    for arm in arms:
        yield _where(arm, [run for run in runs if run.arm == arm])


def in_orders(runs: list[Run], ratios: Mapping[str, Ratio], title: str) -> Table:
    """Arms that take the same rows in orders of their own."""
    table = Table("", "seconds", "output tokens/s", "steady", "prompt tokens cached", title=title)
    for arm in dict.fromkeys(run.arm for run in runs):
        mine = [run for run in runs if run.arm == arm]
        rates = (
            _told(Ratio.of([getattr(run, f"{kind}_tokens_per_s") for run in mine]), 1)
            for kind in ("wall", "steady")
        )
        cached = f"{_median(run.cached_share for run in mine):.0%}"
        table.add_row(arm, f"{_median(run.wall_s for run in mine):.1f}", *rates, cached)
    table.caption = "\n".join(f"{name}: {_told(ratio)}" for name, ratio in ratios.items())
    return table


def sharing(rounds: list[Round], ratios: Mapping[str, Ratio]) -> Table:
    names = ("small alone", "small beside", "first come first served", "large alone", "both")
    table = Table("seconds", *names, title="fair sharing")
    for round_ in rounds:
        small_s = (round_.small_alone_s, round_.small_beside_s, round_.small_behind_s)
        times = (*small_s, round_.large_alone_s, round_.both_s)
        table.add_row(f"round {round_.number + 1}", *(f"{seconds:.2f}" for seconds in times))
    table.caption = "\n".join(f"{name}: {_told(ratio)}" for name, ratio in ratios.items())
    return table


def intake(rounds: list[intake_speed.Round], report: Mapping[str, Any]) -> Table:
    table = Table("seconds", "json.loads", "upload", "create to in_progress", title="intake")
    for round_ in rounds:
        times = (round_.loads_s, round_.upload_s, round_.validate_s)
        table.add_row(f"round {round_.number + 1}", *(f"{seconds:.2f}" for seconds in times))
    grown = ", ".join(f"{role} {size:+}" for role, size in report["growth_mib"].items())
    table.caption = "\n".join(
        [*(f"{name}: {_told(ratio)}" for name, ratio in report["ratio"].items()), f"MiB at the peak: {grown}"]
    )
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


def soak(tally: Tally, slopes: Mapping[str, float], samples: list[Sample]) -> Table:
    table = Table("sampled", "first", "last", "highest", "an hour", title="soak")
    for name, slope in slopes.items():
        seen = [sample[name] for sample in samples if name in sample]
        figures = (f"{figure:,.1f}" for figure in (seen[0], seen[-1], max(seen)))
        table.add_row(name, *figures, f"{slope:+,.1f}")
    ended = ", ".join(f"{count} {status}" for status, count in sorted(tally.batches.items()))
    table.caption = (
        f"{samples[-1][AT] / 60:.0f} min, {tally.rows:,} rows; batches: {ended}; {tally.pauses} pauses,"
        f" {tally.kills.total()} kills; lost {tally.lost}, duplicated {tally.duplicated},"
        f" unexpected {tally.unexpected}"
    )
    return table


def queues(arms: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("", *arms, title="under kills")
    for name, words in (
        ("kills", "kills"),
        ("lost", "rows lost"),
        ("duplicated", "results doubled"),
        ("begun_again", "rows begun again"),
        ("ended_again", "effects repeated"),
    ):
        figures = [arm[name] for arm in arms.values()]
        table.add_row(words, *("none to repeat" if figure is None else f"{figure:,}" for figure in figures))
    for what in next(iter(arms.values()))["stall_s"]:
        stalls = [arm["stall_s"].get(what) for arm in arms.values()]
        table.add_row(
            f"stall, {what} killed (s)", *("" if stall is None else _told(stall, 1) for stall in stalls)
        )
    for name, words in (
        ("calm_rows_per_s", "rows/s without kills"),
        ("stormy_rows_per_s", "rows/s with kills"),
    ):
        table.add_row(words, *(_told(arm[name], 1) for arm in arms.values()))
    return table


def control(runs: list[control_runs.Run], report: Mapping[str, Any]) -> Table:
    table = Table("", "rows", *control_runs.STAGES, "rows/s", title="control plane; stages in s")
    for name, rate in report["arms"].items():
        mine = [run for run in runs if run.arm == name]
        stages = (
            "" if stage not in mine[0].stages_s else f"{_median(run.stages_s[stage] for run in mine):.2f}"
            for stage in control_runs.STAGES
        )
        table.add_row(name, f"{mine[0].rows:,}", *stages, _told(rate, 0))
    table.caption = "\n".join(f"{name}: {_told(ratio, 1)}" for name, ratio in report["ratio"].items())
    return table


def tail(report: Mapping[str, Any], sizes: ends.Sizes) -> Table:
    title = (
        f"ideal ÷ makespan: {sizes.engines} engines, {sizes.rows:,} rows, {sizes.shape.concurrency} at once"
    )
    table = Table("", *ends.ARMS.values(), "static ÷ raybatch", title=title)
    for name, arms in report["arms"].items():
        over_static = report["ratio"][f"{name}: static ÷"]
        table.add_row(name, *(_told(arms[arm]) for arm in ends.ARMS), _told(over_static, 2))
    table.caption = "in virtual time; median (lowest to highest) of the seeds"
    return table


def barriers(runs: list[barred.Run], report: Mapping[str, Any]) -> Table:
    table = Table("", "seconds", "ideal ÷ time", "rows running ÷ most", title="barriers")
    for name, arm in report["arms"].items():
        seconds = _median(run.wall_s for run in runs if run.arm == name)
        full = "" if arm["occupancy"] is None else _told(arm["occupancy"])
        table.add_row(name, f"{seconds:.2f}", _told(arm["efficiency"]), full)
    table.caption = "\n".join(f"{name}: {_told(ratio)}" for name, ratio in report["ratio"].items())
    return table


def pollers(runs: list[asked.Run], report: Mapping[str, Any]) -> Table:
    table = Table("", "seconds", "answers", "p50 (ms)", "p99 (ms)", title="while clients ask")
    for run in runs:
        seen = (f"{run.latency_ms(share):.1f}" for share in (0.5, 0.99)) if run.latencies_ms else ("", "")
        answers = f"{len(run.latencies_ms):,}" if run.latencies_ms else ""
        table.add_row(f"round {run.round + 1}: {run.arm}", f"{run.wall_s:.2f}", answers, *seen)
    failed = report["arms"]["failed"]
    table.caption = f"time with clients ÷ without: {_told(report['ratio']['time'])}; {failed} looks failed"
    return table


def starts(starts: list[Start]) -> Table:
    table = Table("seconds until", "the API answers", "the first token", title="starts")
    for kind in KINDS:
        mine = [start for start in starts if start.kind == kind]
        api_s = [start.api_s for start in mine if start.api_s is not None]
        first_token = Ratio.of([start.first_token_s for start in mine])
        table.add_row(kind, f"{_median(api_s):.1f}" if api_s else "", _told(first_token, 1))
    return table


def scale(runs: list[Weighing], expected: Mapping[str, Any]) -> Table:
    names = ("engines", "rows", "decisions", "decisions/s", "a report (ms)", "slowest (ms)", "busy")
    table = Table(*names, "journal B/row", "grown MiB", title="the scheduler over simulated engines")
    for run in runs:
        report_ms = 1000 * run.spent_s["EngineReport"] / run.events["EngineReport"]
        table.add_row(
            f"{run.engines:,}",
            f"{run.rows:,}",
            f"{run.decisions:,}",
            f"{run.decisions_per_s:,.0f}",
            f"{report_ms:.3f}",
            f"{1000 * max(run.slowest_s.values()):.1f}",
            f"{run.busy:.3f}",
            f"{run.journal_bytes / run.rows:.1f}",
            f"{run.grown_bytes / MIB:.0f}",
        )
    table.caption = (
        "busy: seconds of the scheduler for a second of its engines, below 1 it keeps up\n"
        f"{expected['rows']:,} rows, drawn out from {expected['from_rows']:,}: scheduler"
        f" {expected['scheduler_s']:,.0f} s, engines {expected['engines_s']:,.0f} s, journal"
        f" {expected['journal_bytes'] / MIB:,.0f} MiB"
    )
    return table


def eta(courses: list[Course], report: Mapping[str, Any]) -> Table:
    shares = [f"off after {share:.0%}" for share in SHARES]
    table = Table("run", "seconds", *shares, "ended within the band", title="time left")
    for course in courses:
        offs = (f"{course.error(share):.1%}" for share in SHARES)
        within = sum(course.in_band(share) for share in SHARES)
        name = f"{course.workload} {course.number + 1}"
        table.add_row(name, f"{course.took_s:.1f}", *offs, f"{within} of {len(SHARES)}")
    lines = [f"{name}: {_told(ratio)}" for name, ratio in report["ratio"].items()]
    lines += [f"{name} within the band: {arm['in_band']:.0%}" for name, arm in report["arms"].items()]
    table.caption = "\n".join(lines)
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


def _told(ratio: Ratio, digits: int = 3) -> str:
    return f"{ratio.median:.{digits}f} ({ratio.low:.{digits}f} to {ratio.high:.{digits}f})"
