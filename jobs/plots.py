"""The benchmarks' figures as pictures. Needs matplotlib, which the extra ``bench`` brings."""

from __future__ import annotations

import statistics
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobs import barriers as barred
from jobs import control as control_runs
from jobs import intake_speed, queues_run, result_speed
from jobs import pollers as asked
from jobs import tail as ends
from jobs.eta import WORKLOADS, Course
from jobs.memory import MIB
from jobs.memory import ROLES as RAYBATCH_ROLES
from jobs.runs import STEADY, Ratio, Run
from jobs.sharing import Round
from jobs.soak_samples import AT, RAYS_FILES, Sample
from jobs.starts import KINDS, Start

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from jobs.large import Course as Loaded
    from jobs.scale import Run as Weighing

GROWTH_MAX_MIB: Final = 100
COMPLETED_MAX_S: Final = 1.0
COLOURS: Final = ("#1f77b4", "#d95f02")


def parity(runs: list[Run], arm: str, peer: str, ratios: dict[str, Ratio], path: Path) -> None:
    """Left: every run's tokens over time; right: its rates, with the ratios of the arms beneath."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    over_time, rates = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, colour in zip((arm, peer), COLOURS, strict=True):
        mine = [run for run in runs if run.arm == name]
        for number, run in enumerate(mine):
            tokens = [0, *accumulate(finish.completion_tokens for finish in run.finishes)]
            seconds = [0.0, *(finish.at_s for finish in run.finishes)]
            label = name if number == 0 else None
            over_time.step(seconds, tokens, where="post", color=colour, linewidth=1, alpha=0.7, label=label)
            over_time.axvline(run.wall_s, color=colour, linewidth=0.6, linestyle=":", alpha=0.7)
        for place, kind in enumerate(ratios):
            figures = [getattr(run, f"{kind}_tokens_per_s") for run in mine]
            left = place + (-0.12 if name == arm else 0.12)
            rates.scatter([left] * len(figures), figures, color=colour, s=28, alpha=0.8)
    over_time.set(xlabel="seconds since the start of a run", ylabel="output tokens of finished rows")
    over_time.set_title("tokens over time; dotted: the run's end", fontsize=10)
    over_time.legend(loc="upper left", frameon=False)
    rates.set_xticks(
        range(len(ratios)),
        [
            f"{kind}\nratio {told.median:.3f}\n({told.low:.3f} to {told.high:.3f})"
            for kind, told in ratios.items()
        ],
    )
    rates.set(xlim=(-0.5, len(ratios) - 0.5), ylim=(0, None), ylabel="output tokens a second")
    low, high = (f"{share:.0%}" for share in STEADY)
    rates.set_title(f"a dot a run; steady: {low} to {high} of the tokens", fontsize=10)
    figure.savefig(path, dpi=120)


def in_orders(runs: list[Run], path: Path) -> None:
    """Left: every run's tokens over time; right: its rate, and what its prompts found in the cache."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run.arm for run in runs))
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    over_time, rates = figure.subplots(1, 2, width_ratios=(3, 2))
    for place, name in enumerate(names):
        mine = [run for run in runs if run.arm == name]
        colour, style = COLOURS[place // 2], "-:"[place % 2]
        for number, run in enumerate(mine):
            tokens = [0, *accumulate(finish.completion_tokens for finish in run.finishes)]
            seconds = [0.0, *(finish.at_s for finish in run.finishes)]
            label = name if number == 0 else None
            over_time.step(
                seconds, tokens, style, where="post", color=colour, linewidth=1.2, alpha=0.8, label=label
            )
        rates.scatter([place] * len(mine), [run.wall_tokens_per_s for run in mine], color=colour, alpha=0.8)
    over_time.set(xlabel="seconds since the start of a run", ylabel="output tokens of finished rows")
    over_time.legend(loc="lower right", frameon=False, fontsize=8)
    shares = [statistics.median(run.cached_share for run in runs if run.arm == name) for name in names]
    words = [
        f"{name}\n{share:.0%} cached".replace(", ", ",\n") for name, share in zip(names, shares, strict=True)
    ]
    rates.set_xticks(range(len(names)), words, fontsize=8)
    rates.set(xlim=(-0.5, len(names) - 0.5), ylim=(0, None), ylabel="output tokens a second; a dot a run")
    figure.savefig(path, dpi=120)


def sharing(rounds: list[Round], ratios: dict[str, Ratio], path: Path) -> None:
    """The small batch's time alone, beside the large one and behind it; the large one's alone and both's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    small: list[tuple[float, ...]] = [
        (round_.small_alone_s, round_.small_beside_s, round_.small_behind_s) for round_ in rounds
    ]
    large: list[tuple[float, ...]] = [(round_.large_alone_s, round_.both_s) for round_ in rounds]
    kinds: tuple[tuple[str, str, list[tuple[float, ...]], tuple[str, ...]], ...] = (
        ("slowdown", "small", small, ("alone", "beside the large one", "first come\nfirst served")),
        ("total", "large", large, ("alone", "with the small one")),
    )
    for axes, (name, who, times_s, words) in zip(figure.subplots(1, 2), kinds, strict=True):
        for seconds in times_s:
            axes.plot(range(len(words)), seconds, color=COLOURS[0], marker="o", alpha=0.7)
        axes.set_xticks(range(len(words)), words)
        axes.set(xlim=(-0.4, len(words) - 0.6), ylim=_from_zero(axes), ylabel="seconds")
        told = ratios[name]
        axes.set_title(
            f"the {who} batch; {name} {told.median:.3f} ({told.low:.3f} to {told.high:.3f})", fontsize=10
        )
    figure.savefig(path, dpi=120)


def intake(rounds: list[intake_speed.Round], growth_bytes: dict[str, int], path: Path) -> None:
    """One bar a round and way: what it took of the goal, twice a pass of json.loads."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    times, memory = figure.subplots(1, 2, width_ratios=(3, 2))
    for round_ in rounds:
        place = round_.number
        times.bar(place - 0.2, round_.loads_s, 0.36, color=COLOURS[1])
        times.bar(place + 0.2, round_.upload_s, 0.36, color=COLOURS[0], alpha=0.5)
        times.bar(place + 0.2, round_.validate_s, 0.36, bottom=round_.upload_s, color=COLOURS[0])
    times.legend(["json.loads", "upload", "create to in_progress"], frameon=False, ncols=3, fontsize=8)
    times.margins(y=0.15)  # for the legend
    times.set(xlabel="round", ylabel="seconds", xticks=[round_.number for round_ in rounds])
    memory.bar(list(growth_bytes), [grown / MIB for grown in growth_bytes.values()], color=COLOURS[0])
    memory.axhline(GROWTH_MAX_MIB, color="grey", linestyle=":")
    memory.set(ylabel="MiB more than for a few lines; dotted: the limit")
    figure.suptitle(f"{rounds[0].lines:,} lines, {rounds[0].size_bytes / MIB:,.0f} MiB", fontsize=10)
    figure.savefig(path, dpi=120)


def results(rounds: list[result_speed.Round], path: Path) -> None:
    """Left: seconds until completed; right: each reading beside its peer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    ended, reading = figure.subplots(1, 2, width_ratios=(2, 3))
    for round_ in rounds:
        ended.bar(round_.number, round_.completed_after_s, 0.5, color=COLOURS[0])
        for pair, (mine_s, peer_s) in enumerate(
            ((round_.download_s, round_.static_s), (round_.sql_s, round_.straight_s))
        ):
            reading.plot((2 * pair, 2 * pair + 1), (mine_s, peer_s), color=COLOURS[pair], marker="o")
    ended.axhline(COMPLETED_MAX_S, color="grey", linestyle=":")
    ended.set(xlabel="round", ylabel="seconds to completed; dotted: the limit")
    ended.set_xticks([round_.number for round_ in rounds])
    reading.set_xticks(range(4), ["download", "static file", "SQL", "DuckDB"])
    reading.set(ylabel="seconds", ylim=(0, None))
    figure.savefig(path, dpi=120)


def soak(samples: list[Sample], warm_up: float, path: Path) -> None:
    """Each figure over time: memory by role, open files, journal and ledger, files."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    memory, descriptors, state, files = figure.subplots(2, 2).flat
    for name in sorted({name for sample in samples for name in sample} - {AT}):
        axes = memory if name.endswith(" MiB") else descriptors
        axes = {"journal MiB": state, "ledger MiB": state, "files": files, RAYS_FILES: files}.get(name, axes)
        told = [(sample[AT] / 60, sample[name]) for sample in samples if name in sample]
        axes.plot(*zip(*told, strict=True), linewidth=1, label=name.removesuffix(" MiB"))
    titles = {"PSS (MiB)": memory, "open files": descriptors, "on disk (MiB)": state, "files": files}
    for title, axes in titles.items():
        axes.axvline(warm_up * samples[-1][AT] / 60, color="grey", linestyle=":")
        axes.set(xlabel="minutes; dotted: growth is judged from here on", ylim=(0, None))
        axes.set_title(title, fontsize=10)
    memory.legend(fontsize=7, frameon=False, ncols=2)
    for axes in (state, files):
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=120)


def large(courses: list[Loaded], path: Path) -> None:
    """Each process's memory over a whole batch, with the rows committed behind it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, course in zip(figure.subplots(1, len(courses), squeeze=False).flat, courses, strict=True):
        for role in RAYBATCH_ROLES:
            name = f"{role} MiB"
            told = [(sample[AT], sample[name]) for sample in course.samples if name in sample]
            if told:
                axes.plot(*zip(*told, strict=True), linewidth=1.2, label=role)
        axes.axvline(course.running_at_s, color="grey", linestyle=":", linewidth=0.8)
        axes.set(xlabel="seconds since the upload began; dotted: in_progress", ylabel="PSS (MiB)")
        axes.set_ylim(0, None)
        axes.set_title(f"{course.rows:,} rows, {course.name}: {course.rows_per_s:,.0f} rows/s", fontsize=10)
        done = axes.twinx()
        done.fill_between(*zip(*course.progress, strict=True), color="grey", alpha=0.12)
        done.set(ylabel="rows committed (shaded)", ylim=(0, course.rows))
        axes.legend(fontsize=7, frameon=False, ncols=2, loc="upper left")
    figure.savefig(path, dpi=120)


def queues(runs: list[queues_run.Run], path: Path) -> None:
    """Results over time, an axes for each arm: without kills, and with them."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run.arm for run in runs))
    figure = Figure(figsize=(4 * len(names), 4.2), layout="constrained")
    for axes, name in zip(
        figure.subplots(1, len(names), squeeze=False, sharex=True).flat, names, strict=True
    ):
        for run in runs:
            if run.arm == name:
                colour = COLOURS[1 if run.kills else 0]
                axes.step(*zip(*run.over_time, strict=True), where="post", color=colour, linewidth=1)
                for kill in run.kills:
                    axes.axvline(kill.at_s, color="grey", linewidth=0.6, linestyle=":")
        axes.set(xlabel="seconds; dotted: a kill", ylabel="results to be seen", ylim=(0, None))
        axes.set_title(name, fontsize=10)
    figure.savefig(path, dpi=120)


def control(runs: list[control_runs.Run], path: Path) -> None:
    """Left: rows a second, a dot a run; right: on which stage an arm's time goes, the mean of its runs."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run.arm for run in runs))
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    rates, shares = figure.subplots(1, 2)
    for place, name in enumerate(names):
        mine = [run for run in runs if run.arm == name]
        rates.scatter([place] * len(mine), [run.rows_per_s for run in mine], color=COLOURS[0], alpha=0.8)
        for stage, begin_s, end_s in control_runs.mean_stages(mine):
            whole_s = statistics.fmean(run.stages_s[control_runs.DOWNLOADED] for run in mine)
            shade = 0.25 + 0.25 * control_runs.STAGES.index(stage)
            shares.barh(
                place, (end_s - begin_s) / whole_s, left=begin_s / whole_s, color=COLOURS[0], alpha=shade
            )
    rates.set_xticks(range(len(names)), [name.replace(" + ", "\n+ ") for name in names])
    rates.set(yscale="log", ylabel="rows a second", xlim=(-0.5, len(names) - 0.5))
    shares.set_yticks(range(len(names)), [name.replace(" + ", "\n+ ") for name in names])
    shares.set(xlabel="share of the time", xlim=(0, 1))
    shares.set_title("until " + ", ".join(control_runs.STAGES), fontsize=10)
    figure.savefig(path, dpi=120)


def tail(cases: list[ends.Case], path: Path) -> None:
    """An axes a scenario: each arm's share of the ideal, a dot a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(ends.SCENARIOS), sharey=True), ends.SCENARIOS, strict=True):
        mine = [case for case in cases if case.scenario == name]
        for place, arm in enumerate(ends.ARMS):
            shares = [case.ideal_s / getattr(case, f"{arm}_s") for case in mine]
            axes.scatter([place] * len(shares), shares, color=COLOURS[arm != "raybatch"], alpha=0.7)
        axes.axhline(ends.EFFICIENCY_MIN, color="grey", linestyle=":")
        words = [word.replace(" ", "\n") for word in ends.ARMS.values()]
        axes.set_xticks(range(len(ends.ARMS)), words, fontsize=8)
        axes.set(xlim=(-0.5, len(ends.ARMS) - 0.5), ylim=(0, 1.02))
        axes.set_title(name, fontsize=10)
    figure.axes[0].set_ylabel("ideal ÷ makespan; dotted: the goal")
    figure.savefig(path, dpi=120)


def barriers(runs: list[barred.Run], path: Path) -> None:
    """A dot a run: its share of the ideal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, arm in enumerate(barred.ARMS):
        shares = [run.efficiency for run in runs if run.arm == arm]
        axes.scatter([place] * len(shares), shares, color=COLOURS[arm == barred.LOOP], alpha=0.8)
    axes.set_xticks(range(len(barred.ARMS)), barred.ARMS)
    axes.set(ylim=(0, 1.02), xlim=(-0.5, len(barred.ARMS) - 0.5), ylabel="ideal ÷ time")
    figure.savefig(path, dpi=120)


def pollers(runs: list[asked.Run], path: Path) -> None:
    """Left: the batch's time, a dot a run; right: how many answers took at most so long."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    times, answers = figure.subplots(1, 2, width_ratios=(2, 3))
    for place, arm in enumerate((asked.ALONE, asked.POLLED)):
        walls_s = [run.wall_s for run in runs if run.arm == arm]
        times.scatter([place] * len(walls_s), walls_s, color=COLOURS[place], alpha=0.8)
    times.set_xticks((0, 1), (asked.ALONE, asked.POLLED))
    times.set(xlim=(-0.5, 1.5), ylim=_from_zero(times), ylabel="seconds of the batch")
    for run in runs:
        if run.latencies_ms:
            shares = [number / len(run.latencies_ms) for number in range(1, len(run.latencies_ms) + 1)]
            answers.step(sorted(run.latencies_ms), shares, color=COLOURS[1], alpha=0.7, linewidth=1)
    answers.axhline(0.99, color="grey", linestyle=":")
    answers.set(xscale="log", xlabel="ms; a line a run, dotted: 99 %", ylabel="share of the answers")
    figure.savefig(path, dpi=120)


def starts(starts: list[Start], path: Path) -> None:
    """A dot a start: seconds to the first token."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, kind in enumerate(KINDS):
        times_s = [start.first_token_s for start in starts if start.kind == kind]
        axes.scatter([place] * len(times_s), times_s, color=COLOURS[0], alpha=0.8)
    axes.set_xticks(range(len(KINDS)), KINDS)
    axes.set(xlim=(-0.5, len(KINDS) - 0.5), ylabel="seconds to the first token")
    axes.set_ylim(*_from_zero(axes))
    figure.savefig(path, dpi=120)


def scale(runs: list[Weighing], path: Path) -> None:
    """By the number of engines: decisions a second, and how busy the scheduler is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    rates, busy = figure.subplots(1, 2)
    counts = [run.engines for run in runs]
    rates.scatter(counts, [run.decisions_per_s for run in runs], color=COLOURS[0], alpha=0.8)
    rates.set(xscale="log", yscale="log", xlabel="engines", ylabel="decisions a second")
    busy.scatter(counts, [run.busy for run in runs], color=COLOURS[1], alpha=0.8)
    busy.axhline(1.0, color="grey", linestyle=":")
    busy.set(xscale="log", yscale="log", xlabel="engines; dotted: it no longer keeps up")
    busy.set_ylabel("seconds of the scheduler for one of its engines")
    figure.savefig(path, dpi=120)


def eta(courses: list[Course], path: Path) -> None:
    """A picture a workload: the end as it was foretold at each moment, over the real one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for workload, axes in zip(WORKLOADS, figure.subplots(1, len(WORKLOADS), sharey=True), strict=True):
        for course in (course for course in courses if course.workload == workload):
            told = [(look.at_s, look.p50_s, look.p90_s) for look in course.looks if look.p50_s is not None]
            at = [100 * at_s / course.took_s for at_s, _, _ in told]
            for place, style in ((1, "-"), (2, ":")):
                ends = [(look[0] + (look[place] or 0.0)) / course.took_s for look in told]
                axes.plot(at, ends, style, color=COLOURS[place - 1], linewidth=1, alpha=0.8)
        axes.axhspan(0.9, 1.1, color="grey", alpha=0.15)
        axes.set(xlabel="% of the run", ylim=(0.5, 1.5), xlim=(0, 100))
        axes.set_title(f"{workload}: median, and what nine of ten beat (dotted)", fontsize=10)
        axes.set_ylabel("foretold end ÷ real end")
    figure.savefig(path, dpi=120)


def _from_zero(axes: Axes) -> tuple[float, float]:
    """Limits of y with room above what is drawn, however little it varies."""
    return 0.0, 1.1 * axes.dataLim.y1
