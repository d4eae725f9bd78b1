"""How fast, beside what one would use otherwise: ``python -m jobs.benchmark parity``, ``intake`` and so on.

Each figure is a ratio within one run of the command, for machines are shared and noisy. Every command starts
what it measures and removes it afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from jobs import barriers as barred
from jobs import blend as mixing
from jobs import control as controlled
from jobs import eta as told
from jobs import intake_speed, plots, result_speed, tables
from jobs import parity as p
from jobs import pollers as asked
from jobs import prefixes as begun
from jobs import sharing as shared
from jobs import starts as begin
from jobs import tail as ends
from jobs.api import clean_up_on_sigterm
from jobs.arms import BATCH, LLM, llm_arm
from jobs.echo_cluster import echo_cluster
from jobs.prefix_prompts import Sizes as PrefixSizes
from jobs.prompts import OUTPUT_SPREAD, OUTPUT_TOKENS, OUTPUT_TOKENS_MEDIAN
from jobs.queues_arms import Load
from jobs.virtual import Shape
from raybatch.config import PACKAGED_MODEL, ModelSettings

app = typer.Typer(no_args_is_help=True, add_completion=False)

Rounds = Annotated[int, typer.Option(min=1, help="Every second one in reverse order.")]
JsonPath = Annotated[Path | None, typer.Option("--json", help="Write the figures there, too.")]
PlotPath = Annotated[Path | None, typer.Option("--plot", help="Draw them there, as PNG.")]
ModelName = Annotated[
    str | None,
    typer.Option(metavar="ID[=SOURCE]", help="The packaged one unless given. SOURCE: hub id or folder."),
]
CachePath = Annotated[
    Path | None, typer.Option(help="Where the packaged model is kept between runs of this command.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; may be given again."),
]


@app.callback(help=__doc__)
def main() -> None:
    clean_up_on_sigterm()


@app.command()
def parity(
    rows: Annotated[int, typer.Option(min=1, help="Of each run.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="Of four runs each, in the order A-B-B-A.")] = 3,
    peer: Annotated[str, typer.Option(help=f"One of: {', '.join(p.PEERS)}.")] = LLM,
    model: ModelName = None,
    assignments: Assignments = None,
    cache: CachePath = None,
    json_path: JsonPath = None,
    plot_path: PlotPath = None,
) -> None:
    """Output tokens a second of a batch, from POST /v1/batches to its output file, ÷ those of vLLM alone."""
    if peer not in p.PEERS:
        raise typer.BadParameter(f"no such peer: '{peer}'. Choose from {', '.join(p.PEERS)}")
    cores = p.cores_to_divide()
    settings = p.engine_settings(_model(model), cache or _cache(), cores, 2, tuple(assignments or ()))
    with p.both_arms(settings, peer, _say) as arms:
        runs = p.measure(arms, cores, rows, rounds, _say)
    report = p.report(runs, peer, settings, cores)
    draw = partial(plots.parity, runs, BATCH, peer, report["ratio"])
    _tell(tables.parity(runs, report["ratio"]), report, draw, json_path, plot_path)


@app.command()
def prefixes(
    prefixes: Annotated[int, typer.Option(min=2, help="Beginnings that rows share.")] = 16,
    rows: Annotated[int, typer.Option(min=1, help="Of each prefix.")] = 5,
    prefix_words: Annotated[
        int, typer.Option(min=1, help="Of each; a little more than so many tokens.")
    ] = 450,
    kv_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens whose keys and values an engine has memory for.")
    ] = 2_560,
    at_once: Annotated[int, typer.Option(min=1, help="vllm.max_num_seqs")] = 8,
    rounds: Rounds = 2,
    model: ModelName = None,
    assignments: Assignments = None,
    cache: CachePath = None,
    json_path: JsonPath = None,
    plot_path: PlotPath = None,
) -> None:
    """Rows that begin alike in groups, in a shuffled file, ÷ LLM.generate on it sorted; and in file order."""
    cores = p.cores_to_divide()
    memory = begun.Memory(kv_tokens, at_once)
    settings, keeping = begun.both_settings(
        _model(model), cache or _cache(), cores, memory, tuple(assignments or ())
    )
    sizes = PrefixSizes(prefixes, rows, prefix_words)
    with begun.all_arms(settings, keeping, _say) as arms:
        runs = begun.measure(arms, cores, sizes, rounds, _say)
    report = begun.report(runs, settings, cores, sizes)
    draw = partial(plots.in_orders, runs)
    _tell([tables.in_orders(runs, report["ratio"], "prefixes")], report, draw, json_path, plot_path)


@app.command()
def blend(
    rows: Annotated[int, typer.Option(min=1, help="Of each kind.")] = 80,
    prompt_words: Annotated[int, typer.Option(min=1, help="Of the long prompts.")] = 500,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Of the long answers.")] = 128,
    rounds: Rounds = 2,
    model: ModelName = None,
    assignments: Assignments = None,
    cache: CachePath = None,
    json_path: JsonPath = None,
    plot_path: PlotPath = None,
) -> None:
    """What mixing rows of long prompts with rows of long answers could win: LLM.generate in three orders."""
    cores = p.cores_to_divide()
    settings = p.engine_settings(_model(model), cache or _cache(), cores, 2, tuple(assignments or ()))
    sizes = mixing.Sizes(rows, prompt_words, answer_tokens)
    _say("starting raybatch, whose home the LLM is loaded from, and loading the LLM")
    with p.loaded(settings) as cluster, llm_arm(cluster) as llm:
        runs = mixing.measure(llm, cores, sizes, rounds, _say)
    report = mixing.report(runs, settings, cores, sizes)
    draw = partial(plots.in_orders, runs)
    _tell([tables.in_orders(runs, report["ratio"], "blend")], report, draw, json_path, plot_path)


@app.command()
def sharing(
    small_rows: Annotated[int, typer.Option(min=1, help="Of the batch that comes later.")] = 200,
    large_rows: Annotated[int, typer.Option(min=1, help="Of the batch that is there already.")] = 50_000,
    rows_per_s: Annotated[float, typer.Option(help="How fast the echo engine answers.")] = 1000.0,
    rounds: Rounds = 3,
    assignments: Assignments = None,
    json_path: JsonPath = None,
    plot_path: PlotPath = None,
) -> None:
    """A small batch during a large one: its time ÷ alone, beside first come first served; both's rows/s."""
    with echo_cluster(*(assignments or ()), rows_per_s=rows_per_s) as cluster:
        done = shared.measure(cluster, small_rows, large_rows, rounds, _say)
        report = shared.report(done, cluster)
    draw = partial(plots.sharing, done, report["ratio"])
    _tell([tables.sharing(done, report["ratio"])], report, draw, json_path, plot_path)


@app.command()
def intake(
    lines: Annotated[int, typer.Option(min=1)] = 50_000,
    line_bytes: Annotated[int, typer.Option(min=150, help="Of each line, about.")] = 4_000,
    rounds: Rounds = 3,
    assignments: Assignments = None,
    json_path: JsonPath = None,
    plot_path: PlotPath = None,
) -> None:
    """From an upload's first byte to the running batch, ÷ one json.loads of every line; and memory."""
    with echo_cluster(*(assignments or ())) as cluster:
        done, growth = intake_speed.measure(cluster, lines, line_bytes, rounds, _say)
    report = intake_speed.report(done, growth)
    draw = partial(plots.intake, done, growth)
    _tell([tables.intake(done, report)], report, draw, json_path, plot_path)


@app.command()
def results(
    rows: Annotated[int, typer.Option(min=1, help="Of each batch.")] = 50_000,
    rounds: Rounds = 3,
    assignments: Assignments = None,
    json_path: JsonPath = None,
    plot_path: PlotPath = None,
) -> None:
    """From the last row to the completed batch; download beside a static file's, SQL beside DuckDB's."""
    with echo_cluster(*(assignments or ())) as cluster:
        done = result_speed.measure(cluster, rows, rounds, _say)
    report = result_speed.report(done)
    draw = partial(plots.results, done)
    _tell([tables.results(done, report)], report, draw, json_path, plot_path)


@app.command()
def eta(
    run_s: Annotated[float, typer.Option(min=10, help="How long a batch takes, about.")] = 60.0,
    rows_per_s: Annotated[float, typer.Option(min=1, help="How fast the echo engine answers.")] = 50.0,
    rounds: Rounds = 3,
    assignments: Assignments = None,
    json_path: JsonPath = None,
    plot_path: PlotPath = None,
) -> None:
    """The time left that a batch shows, held against its real end after 10, 25 and 50 % of the run."""
    settings = (*told.settings_for(rows_per_s), *(assignments or ()))
    with echo_cluster(*settings) as cluster:
        done = told.measure(cluster, round(rows_per_s * run_s), rounds, _say)
    report = told.report(done)
    draw = partial(plots.eta, done)
    _tell([tables.eta(done, report)], report, draw, json_path, plot_path)


@app.command()
def control(
    rows: Annotated[int, typer.Option(min=1, help="Of each run of raybatch.")] = 50_000,
    peer_rows: Annotated[int, typer.Option(min=1, help="Of each run of the others.")] = 5_000,
    rounds: Rounds = 3,
    engines: Annotated[int, typer.Option(min=1, help="Of raybatch.")] = 1,
    at_once: Annotated[int, typer.Option(min=1, help="Rows in each of the others' two processes.")] = 8,
    prefetch: Annotated[int, typer.Option(min=1, help="Of Celery, for each of those.")] = 16,
    arms: Annotated[str, typer.Option(help="With commas between them.")] = ",".join(controlled.ARMS),
    json_path: JsonPath = None,
    plot_path: PlotPath = None,
) -> None:
    """Rows a second from handing in to results in hand, beside Celery and Procrastinate; rows are free."""
    chosen = _chosen(arms, controlled.ARMS)
    load = Load(row_s=0.0, at_once=at_once, prefetch=prefetch, tallied=False)
    sizes = controlled.Sizes(rows, peer_rows, engines, load)
    runs = controlled.measure(chosen, sizes, rounds, _say)
    report = controlled.report(runs, sizes)
    draw = partial(plots.control, runs)
    _tell([tables.control(runs, report)], report, draw, json_path, plot_path)


@app.command()
def tail(
    engines: Annotated[int, typer.Option(min=2)] = 4,
    rows: Annotated[int, typer.Option(min=1)] = 20_000,
    seeds: Annotated[int, typer.Option(min=1, help="Of each scenario.")] = 5,
    concurrency: Annotated[int, typer.Option(min=1, help="Rows that run at once on an engine.")] = 64,
    alpha_ms: Annotated[float, typer.Option(help="A step takes this")] = 20.0,
    beta_ms: Annotated[float, typer.Option(help="and this for each running row.")] = 0.1,
    spread: Annotated[float, typer.Option(help="Of the logarithm of a row's length.")] = OUTPUT_SPREAD,
    longest_tokens: Annotated[int, typer.Option(min=1)] = OUTPUT_TOKENS[1],
    json_path: JsonPath = None,
    plot_path: PlotPath = None,
) -> None:
    """Ideal ÷ makespan of a batch on several engines, lengths unknown; in virtual time."""
    shape = Shape(alpha_ms / 1000, beta_ms / 1000, concurrency)
    sizes = ends.Sizes(engines, rows, shape, OUTPUT_TOKENS_MEDIAN, spread, longest_tokens)
    cases = ends.measure(sizes, seeds, _say)
    report = ends.report(cases, sizes)
    draw = partial(plots.tail, cases)
    _tell([tables.tail(report, sizes)], report, draw, json_path, plot_path)


@app.command()
def barriers(
    batches: Annotated[int, typer.Option(min=2)] = 8,
    rows: Annotated[int, typer.Option(min=1, help="Of each batch, and of a chunk of the loop.")] = 500,
    concurrency: Annotated[int, typer.Option(min=1, help="Rows that run at once.")] = 64,
    alpha_ms: Annotated[float, typer.Option(help="A step takes this")] = 10.0,
    beta_ms: Annotated[float, typer.Option(help="and this for each running row.")] = 0.05,
    rounds: Rounds = 3,
    assignments: Assignments = None,
    json_path: JsonPath = None,
    plot_path: PlotPath = None,
) -> None:
    """Several batches at once beside one batch of all their rows, and beside a loop chunk by chunk."""
    steps = (f"echo.alpha_ms={alpha_ms}", f"echo.beta_ms={beta_ms}", f"echo.concurrency={concurrency}")
    sizes = barred.Sizes(batches, rows)
    with echo_cluster(*steps, *(assignments or ())) as cluster:
        runs = barred.measure(cluster, sizes, rounds, _say)
        report = barred.report(runs, sizes, cluster.settings.echo)
    draw = partial(plots.barriers, runs)
    _tell([tables.barriers(runs, report)], report, draw, json_path, plot_path)


@app.command()
def pollers(
    clients: Annotated[int, typer.Option(min=1, help="That ask how the batch goes.")] = 500,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of a client.")] = 5.0,
    rows: Annotated[int, typer.Option(min=1, help="Of each batch.")] = 6_000,
    rows_per_s: Annotated[float, typer.Option(help="How fast the echo engine answers.")] = 200.0,
    rounds: Annotated[int, typer.Option(min=1, help="Of four runs each, in the order A-B-B-A.")] = 3,
    assignments: Assignments = None,
    json_path: JsonPath = None,
    plot_path: PlotPath = None,
) -> None:
    """A batch that hundreds of clients ask about: its time ÷ alone, and what an answer takes them."""
    asking = asked.Clients(clients, every)
    with echo_cluster(*(assignments or ()), rows_per_s=rows_per_s) as cluster:
        runs = asked.measure(cluster, asking, rows, rounds, _say)
    report = asked.report(runs, asking)
    draw = partial(plots.pollers, runs)
    _tell([tables.pollers(runs, report)], report, draw, json_path, plot_path)


@app.command()
def starts(
    rows: Annotated[int, typer.Option(min=1, help="Of the batch that runs on through all of it.")] = 5_000,
    rounds: Annotated[int, typer.Option(min=1, help="Each in a home of its own.")] = 3,
    model: ModelName = None,
    assignments: Assignments = None,
    cache: CachePath = None,
    json_path: JsonPath = None,
    plot_path: PlotPath = None,
) -> None:
    """Seconds to the first token: after a start, a killed engine, a kill of everything."""
    settings = p.engine_settings(_model(model), cache or _cache(), None, 1, tuple(assignments or ()))
    found = begin.measure(settings, rows, rounds, _say)
    _tell([tables.starts(found)], begin.report(found), partial(plots.starts, found), json_path, plot_path)


def _chosen(words: str, known: Iterable[str]) -> list[str]:
    """Raises BadParameter for an arm that nobody knows."""
    chosen = [word for word in words.split(",") if word]
    if unknown := [word for word in chosen if word not in known]:
        raise typer.BadParameter(f"no such arm: {', '.join(unknown)}. Choose from {', '.join(known)}")
    return chosen


def _say(words: str) -> None:
    Console(stderr=True).print(words)


def _tell(
    tables: Iterable[Table],
    report: dict[str, Any],
    draw: Callable[[Path], None],
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """On the terminal, and where somebody wants them as JSON and as a picture."""
    for table in tables:
        Console().print(table)
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    if plot_path is not None:
        draw(plot_path)


def _model(word: str | None) -> ModelSettings:
    if word is None:
        return PACKAGED_MODEL
    name, _, source = word.partition("=")
    return ModelSettings(name, source)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raybatch-benchmark"


if __name__ == "__main__":
    app()
