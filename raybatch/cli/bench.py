"""`raybatch bench`: how fast a model answers on this machine, and how long a large batch would take.

It starts a raybatch of its own, runs one batch through all of it, and stops it again. It refuses to share a
home with anything else, and says nothing of how good the answers are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from raybatch.cli.bench_figures import Figures, peak_by_role
from raybatch.cli.bench_picture import check_can_draw, draw
from raybatch.cli.bench_rows import Shape
from raybatch.cli.bench_run import measured
from raybatch.cli.demo import Steps, ended_by_signals, free_address, own_home, stopped_afterwards
from raybatch.cli.show import duration, size, stdout, table
from raybatch.cli.up import has_gpu, model_of
from raybatch.config import PACKAGED_MODEL, make_settings

LARGE_ROWS: Final = 200_000


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
        figures = measured(home, settings, chosen, shape, steps)
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
