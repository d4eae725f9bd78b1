"""`raybatch tune`: which engine settings are the fastest on this machine, kept for the next start.

Each candidate gets a raybatch of its own, below the cache folder, which runs the same rows and is stopped
again. It refuses to measure beside a running raybatch of the home, and changes nothing that was set by hand.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Final

import typer
from rich.console import Console

from raybatch.actors.connection import Connection
from raybatch.cli import tune_ladders
from raybatch.cli.bench_figures import Figures
from raybatch.cli.bench_rows import Shape
from raybatch.cli.bench_run import measured
from raybatch.cli.demo import Steps, ended_by_signals, free_address, own_home, stopped_afterwards
from raybatch.cli.show import duration, instant, one_line, size, stdout, table
from raybatch.cli.tune_search import (
    GAIN_MIN,
    ROUNDS_MIN,
    Candidate,
    Comparison,
    Failed,
    Run,
    Trial,
    Values,
    climb,
)
from raybatch.cli.tuned import machine, shown, with_tuned
from raybatch.cli.up import has_gpu, model_of, refuse_impossible
from raybatch.config import (
    PACKAGED_MODEL,
    Home,
    ModelSettings,
    RaySettings,
    Settings,
    assigned,
    make_settings,
)
from raybatch.errors import OperatorError, RaybatchError
from raybatch.tuned_file import Tuning, read_tunings, tuned_path, write_tuning

WARM_ROWS_MAX: Final = 8
WARM_TOKENS_MAX: Final = 16
REASON_LENGTH_MAX: Final = 240  #: in the table; the whole one stands above it
ROLES: Final = ("engine", "engine-child")
OF_A_RUN: Final = ("ledger", "files", "batches", "results", "uploads", "tmp")  #: folders of a trial's home


def tune(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID[=SOURCE]]",
            help="A model of this home, a hub id, or a name and a folder; without it the home's, where it has"
            " one only.",
        ),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=4, help="Of each batch; two waves of what is tried unless given.")
    ] = None,
    prompt_words: Annotated[int, typer.Option(min=1, help="Of a prompt, on average.")] = 100,
    output_tokens: Annotated[int, typer.Option(min=1, help="Of an answer, on average.")] = 64,
    rounds: Annotated[
        int, typer.Option(min=ROUNDS_MIN, help="So many engines are loaded for each candidate.")
    ] = ROUNDS_MIN,
    tries: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="vllm.KEY=VALUE,VALUE",
            help="These instead of the usual candidates; may be given again.",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Held while measuring; may be given again."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and print, keep nothing.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Forget what was tuned; measure nothing.")] = False,
) -> None:
    """Measure which engine settings are the fastest here, and keep them for the next `raybatch up`."""
    home = ctx.ensure_object(Connection).home
    console = stdout()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    settings, chosen = present(home, model, tuple(assignments or ()), say)
    if undo:
        _forget(home, chosen, say)
        return
    refuse_beside(home)
    refuse_untunable(home, settings)
    rows = rows or tune_ladders.rows_for(settings, chosen, tries or ())
    ladders = tune_ladders.chosen(settings, chosen, tries or (), rows, say)
    held = settings.vllm_of(chosen)
    before: Values = {ladder.key: getattr(held, ladder.key) for ladder in ladders}
    shape = Shape(rows, prompt_words, output_tokens)
    say(f"{chosen.id} on {machine(settings)}: {rows:,} rows, {rounds} rounds, starting from {shown(before)}")
    trial = _trial(own_home(None, "tune"), _of_a_trial(settings), chosen, shape, say)
    comparisons = []
    with ended_by_signals():
        for comparison in climb(before, ladders, rounds, trial):
            comparisons.append(comparison)
            _print(comparison, console)
    _conclude(home, settings, chosen, before, comparisons, tuple(assignments or ()), dry_run, say)


def present(
    home: Home, word: str | None, assignments: tuple[str, ...], say: Callable[[str], None]
) -> tuple[Settings, ModelSettings]:
    """What `raybatch up` would take here, and the model that is meant. Raises OperatorError."""
    if home.settings_path.exists():
        settings = home.load()
    else:
        settings = make_settings("desktop" if has_gpu() else "cpu", models=(PACKAGED_MODEL,))
    if word is None and len(settings.models) != 1:
        names = ", ".join(model.id for model in settings.models)
        raise OperatorError(f"{home.root} serves several models, so name one: {names}")
    known = (model for model in settings.models if word is None or word in model.names)
    model = next(known, None) or model_of(word or PACKAGED_MODEL.id)
    settings = assigned(replace(settings, models=(model,)), assignments)
    return with_tuned(home, settings, say), model


def refuse_beside(home: Home) -> None:
    """Raises OperatorError while this home's raybatch runs: both would be slower, or not fit the card."""
    from raybatch.actors.cluster_facts import running

    if running(home) is not None:
        holds = "holds the GPU" if home.load().engine.gpus else "takes part of the machine"
        raise OperatorError(
            f"raybatch is running at {home.root} and {holds}: `raybatch down`, tune, then `raybatch up` again"
        )


def refuse_untunable(home: Home, settings: Settings) -> None:
    """Raises OperatorError where no engine could be measured with these settings."""
    if settings.engine.kind != "vllm":
        raise OperatorError(
            f"{home.root} runs the {settings.engine.kind} engine, which has nothing to tune: give"
            " --set engine.kind=vllm, or another --home"
        )
    refuse_impossible(settings)


def _of_a_trial(settings: Settings) -> Settings:
    """One engine and nothing that depends on the hour or on others; limits of the card's heat stay."""
    return Settings(
        engine=replace(settings.engine, slots=0, replicas=1),
        vllm=settings.vllm,
        gpu=settings.gpu,
        ray=RaySettings(object_store_bytes=settings.ray.object_store_bytes, dashboard=False),
        profile=settings.profile,
    )


def _trial(
    home: Home, settings: Settings, model: ModelSettings, shape: Shape, say: Callable[[str], None]
) -> Trial:
    quiet = Steps(Console(quiet=True, force_terminal=False))
    warm = Shape(
        min(shape.rows, WARM_ROWS_MAX), shape.prompt_words, min(shape.output_tokens, WARM_TOKENS_MAX)
    )

    def run(values: Values) -> Run | Failed:
        for name in OF_A_RUN:
            shutil.rmtree(home.root / name, ignore_errors=True)
        home.make()
        tried = replace(model, vllm={**model.vllm, **values})
        started_mono = time.monotonic()
        try:
            with stopped_afterwards(home, quiet):
                ran = replace(settings, models=(tried,), api=free_address())
                found = _run(measured(home, ran, tried, shape, quiet, warm), shape)
        except RaybatchError as error:
            found = Failed(error.message)
        took = duration(time.monotonic() - started_mono)
        came_to = found.reason if isinstance(found, Failed) else f"{found.tokens_per_s:,.1f} output tokens/s"
        say(f"  {shown(values)}: {came_to} ({took} with loading)")
        return found

    return run


def _run(figures: Figures, shape: Shape) -> Run | Failed:
    answered = len(figures.finishes)
    if answered < shape.rows:
        return Failed(f"{answered:,} of {shape.rows:,} rows were answered")
    peaks = [sum(sample.rss_bytes.get(role, 0) for role in ROLES) for sample in figures.samples]
    cards = [s.gpu_memory_bytes for s in figures.samples if s.gpu_memory_bytes is not None]
    return Run(figures.steady_tokens_per_s, max(peaks, default=0), max(cards, default=None))


def _print(comparison: Comparison, console: Console) -> None:
    console.print()
    console.print(
        table(
            ("candidate", "output tokens/s", "slowest to fastest", "memory", "ratio", ""),
            [_line(comparison, candidate) for candidate in comparison.candidates],
        )
    )
    console.print()


def _line(comparison: Comparison, candidate: Candidate) -> tuple[object, ...]:
    first = comparison.candidates[0]
    values = {k: v for k, v in candidate.values.items() if not comparison.key or k == comparison.key}
    if candidate.failed is not None:
        why = one_line(candidate.failed, REASON_LENGTH_MAX)
        return (shown(values), None, "", "", None, f"did not run: {why}")
    memory = size(max(run.memory_bytes for run in candidate.runs))
    cards = [run.gpu_memory_bytes for run in candidate.runs if run.gpu_memory_bytes is not None]
    if cards:
        memory += f", GPU {size(max(cards))}"
    spread = f"{candidate.slowest:,.1f} to {candidate.fastest:,.1f}"
    ratio = None if first.failed is not None else round(comparison.ratio(candidate), 3)
    return (
        shown(values),
        round(candidate.tokens_per_s, 1),
        spread,
        memory,
        ratio,
        _verdict(comparison, candidate),
    )


def _verdict(comparison: Comparison, candidate: Candidate) -> str:
    first = comparison.candidates[0]
    if candidate is first:
        return "as it is" if comparison.winner is first else "as it was"
    if comparison.is_gain(candidate):
        return "faster" if first.failed is None else "runs"
    if candidate.fastest < first.slowest and comparison.ratio(candidate) * GAIN_MIN <= 1:
        return "slower"
    return "no difference beyond the rounds' own spread"


def _conclude(
    home: Home,
    settings: Settings,
    model: ModelSettings,
    before: Values,
    comparisons: list[Comparison],
    assignments: tuple[str, ...],
    dry_run: bool,
    say: Callable[[str], None],
) -> None:
    last = comparisons[-1]
    best = last.winner.values
    if best == before:
        say(f"{shown(before)} stays: nothing tried was faster by more than the rounds' own spread.")
        return
    changes = {key: value for key, value in best.items() if value != before[key]}
    ratio = gain(before, comparisons)
    faster = "what there was did not run" if ratio is None else f"{ratio:.3f} times what there was"
    say(f"Found: {shown(changes)}: {faster}.")
    if dry_run:
        say(f"Nothing is kept (--dry-run). By hand: raybatch up --set {' --set '.join(_words(changes))}")
        return
    kept = {**settings.tuned.get(model.id, {}), **changes}
    write_tuning(home, model.id, Tuning(machine(settings), instant(time.time()), kept, assignments, ratio))
    say(
        f"Written to {tuned_path(home)}; the next `raybatch up` takes {shown(kept)} for {model.id}. Undo:"
        f" raybatch tune {model.id} --undo --home {home.root}"
    )
    if assignments:
        say(f"It was measured with {', '.join(assignments)}: start raybatch with the same.")


def gain(before: Values, comparisons: list[Comparison]) -> float | None:
    """What was found, ÷ what there was, from the last comparison of the two; None when that did not run."""
    direct = [one for one in comparisons if one.candidates[0].values == before]
    last = next(one for one in reversed(direct) if one.winner is not one.candidates[0])
    return None if last.candidates[0].failed is not None else last.ratio(last.winner)


def _words(values: Values) -> list[str]:
    return [shown({key: value}) for key, value in sorted(values.items())]


def _forget(home: Home, model: ModelSettings, say: Callable[[str], None]) -> None:
    known = read_tunings(home).get(model.id)
    if known is None:
        say(f"nothing was tuned for {model.id} in {home.root}")
        return
    write_tuning(home, model.id, None)
    say(f"{shown(known.vllm)}, tuned {known.tuned_at}, is forgotten; the next `raybatch up` goes without")
