"""`raybatch bench`: how fast a model answers on this machine, and how long a large batch would take.

It starts a raybatch of its own, runs one batch through all of it, and stops it again. It refuses to share a
home with anything else, and says nothing of how good the answers are.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from raybatch.actors.connection import Connection, Json
from raybatch.actors.submission import create
from raybatch.cli.bench_figures import Figures, Finish, Sample, peak_by_role
from raybatch.cli.bench_picture import check_can_draw, draw
from raybatch.cli.bench_rows import ENDPOINT, Shape, lines
from raybatch.cli.demo import Steps, completed, ended_by_signals, free_address, own_home, stopped_afterwards
from raybatch.cli.progress import follow
from raybatch.cli.show import duration, size, stdout, table
from raybatch.cli.sql import ask
from raybatch.cli.up import has_gpu, model_of, wait_for_model
from raybatch.config import PACKAGED_MODEL, Home, make_settings
from raybatch.errors import OperatorError, RaybatchError

if TYPE_CHECKING:
    from raybatch.config import ModelSettings, Settings

LARGE_ROWS: Final = 200_000
SAMPLE_S: Final = 1.0
ROLES: Final = ("engine", "engine-child", "scheduler", "replica", "proxy")
FINISHES_SQL: Final = """
SELECT epoch_us(started_at) / 1e6 AS started_at, epoch_us(finished_at) / 1e6 AS finished_at,
    prompt_tokens, completion_tokens
FROM results WHERE status_code = 200 ORDER BY finished_at"""


def bench(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="[ID[=SOURCE]]", help="Hub id, or a name and a folder; the packaged one.")
    ] = PACKAGED_MODEL.id,
    rows: Annotated[int, typer.Option(min=4, help="Of the batch.")] = 256,
    prompt_words: Annotated[int, typer.Option(min=1, help="Of a prompt, on average.")] = 100,
    output_tokens: Annotated[int, typer.Option(min=1, help="Of an answer, on average.")] = 64,
    engine: Annotated[str, typer.Option(help="vllm, or echo: no model, only what surrounds it.")] = "vllm",
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; may be given again."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it there, as PNG.")] = None,
) -> None:
    """Run a batch of a prescribed shape on this machine: tokens/s, memory, heat, time for 200,000 rows."""
    if plot is not None:
        check_can_draw()
    shape = Shape(rows, prompt_words, output_tokens)
    home = own_home(ctx.parent.params.get("home") if ctx.parent else None, "bench")
    chosen = model_of(model)
    settings = make_settings(
        "desktop" if engine == "vllm" and has_gpu() else "cpu",
        (f"engine.kind={engine}", "ray.dashboard=false", *(assignments or ())),
        models=(chosen,),
        api=free_address(),
    )
    steps = Steps(stdout())
    with ended_by_signals(), stopped_afterwards(home, steps):
        figures = _measured(home, settings, chosen, shape, steps)
    steps.console.print(table(("what", "figure"), told(figures)))
    if plot is not None:
        draw(figures, f"{chosen.id}: {rows:,} rows, {figures.steady_tokens_per_s:,.1f} output tokens/s", plot)
        steps.say(f"drawn: {plot}")


def told(figures: Figures) -> list[tuple[str, str]]:
    """As lines of a table."""
    rows = len(figures.finishes)
    prompt, answer = figures.prompt_tokens / rows, figures.completion_tokens / rows
    found = [
        ("rows", f"{rows:,}, {prompt:,.0f} tokens in and {answer:,.0f} out on average"),
        ("time, first row to last", duration(figures.wall_s)),
        ("output tokens/s", f"{figures.tokens_per_s:,.1f}, in the middle {figures.steady_tokens_per_s:,.1f}"),
        ("rows/s", f"{rows / figures.wall_s:,.2f}"),
    ]
    found += [
        (f"memory of {role}, at most", size(peak)) for role, peak in peak_by_role(figures.samples).items()
    ]
    degrees = [sample.temperature_c for sample in figures.samples if sample.temperature_c is not None]
    if degrees:
        found.append(("hottest GPU", f"{degrees[0]} °C at first, {max(degrees)} °C at most"))
        cards = [sample.gpu_memory_bytes or 0 for sample in figures.samples]
        found.append(("memory of the GPUs, at most", size(max(cards))))
    joule = figures.tokens_per_joule()
    if joule is not None:
        found.append(("output tokens per joule", f"{joule:,.2f}"))
    found.append((f"{LARGE_ROWS:,} rows of this shape", f"about {duration(figures.seconds_for(LARGE_ROWS))}"))
    return found


def _measured(home: Home, settings: Settings, model: ModelSettings, shape: Shape, steps: Steps) -> Figures:
    from raybatch.actors import cluster

    with steps.step("Start Ray, the scheduler and the API"):
        facts = cluster.up(home, settings, steps.say)
    connection = Connection(home, facts.api_url, None)
    with steps.step(f"Load {model.id}"):
        wait_for_model(connection, steps.say)
    path = home.scratch / "bench.jsonl"
    with path.open("wb") as file:
        file.writelines(line + b"\n" for line in lines(shape, model.id))
    with steps.step(f"Run {shape.rows:,} rows"), _sampled(connection) as looks:
        batch_id = create(connection, path, path.name, ENDPOINT, {"made_by": "raybatch bench"})
        completed(follow(connection, batch_id, steps.console), steps)
    return _figures(connection, batch_id, looks)


def _figures(connection: Connection, batch_id: str, looks: list[tuple[float, Sample]]) -> Figures:
    found = cast(list[tuple[Any, ...]], ask(connection, FINISHES_SQL, batch_id).rows)
    if not found:
        raise OperatorError(f"no row of {batch_id} was answered: see `raybatch failed {batch_id}`")
    began_at = min(started_at for started_at, *_ in found)
    return Figures(
        tuple(
            Finish(started_at - began_at, finished_at - began_at, *tokens)
            for started_at, finished_at, *tokens in found
        ),
        tuple(replace(one, at_s=at - began_at) for at, one in looks),
    )


@contextmanager
def _sampled(connection: Connection) -> Iterator[list[tuple[float, Sample]]]:
    """What a look every second found, and when; one at the start and one at the end at least."""
    looks: list[tuple[float, Sample]] = []
    over = threading.Event()

    def look() -> None:
        with suppress(RaybatchError):
            looks.append((time.time(), _sample(connection)))

    def keep_looking() -> None:
        while not over.wait(SAMPLE_S):
            look()

    look()
    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        yield looks
    finally:
        over.set()
        thread.join()
        look()


def _sample(connection: Connection) -> Sample:
    """Memory of the home's processes, and what its engines say of their cards. ``at_s`` is left at 0."""
    from raybatch.actors.cluster_facts import processes

    rss_bytes: Counter[str] = Counter()
    for process in processes(connection.home):
        if process.role in ROLES:
            rss_bytes[process.role] += process.rss_bytes
    engines: list[Json] = connection.admin("GET", "/admin/overview")["overview"]["engines"]
    cards = [card for engine in engines for card in engine["gpus"]]
    if not cards:
        return Sample(0.0, dict(rss_bytes))
    return Sample(
        0.0,
        dict(rss_bytes),
        sum(card["memory_used_bytes"] for card in cards),
        max(card["temperature_c"] for card in cards),
        sum(card["power_w"] for card in cards),
    )
