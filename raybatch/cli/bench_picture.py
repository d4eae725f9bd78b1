"""`raybatch bench` as a picture. Needs matplotlib, which the extra ``bench`` brings."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from raybatch.cli.bench_figures import Figures
from raybatch.errors import OperatorError

MIB = 1 << 20


def check_can_draw() -> None:
    """Raises OperatorError before anything is started for a picture that cannot be drawn."""
    if find_spec("matplotlib") is None:
        raise OperatorError("a picture needs matplotlib: pip install matplotlib, or leave --plot out")


def draw(figures: Figures, title: str, path: Path) -> None:
    """Tokens a second, memory by process, and the card's heat where there is one, over time."""
    from matplotlib.figure import Figure

    hot = any(sample.temperature_c is not None for sample in figures.samples)
    figure = Figure(figsize=(9, 8 if hot else 5.5), layout="constrained")
    rate, memory, *heat = figure.subplots(3 if hot else 2, 1, sharex=True)
    rate.step(*zip(*figures.rate_over_time(), strict=True), where="pre", linewidth=1)
    rate.axhline(figures.steady_tokens_per_s, color="grey", linestyle=":")
    rate.set(ylabel="output tokens/s", ylim=(0, None))
    at_s = [sample.at_s for sample in figures.samples]
    for role in sorted({role for sample in figures.samples for role in sample.rss_bytes}):
        sizes = [sample.rss_bytes.get(role, 0) / MIB for sample in figures.samples]
        memory.plot(at_s, sizes, linewidth=1, label=role)
    if hot:
        cards = [(sample.gpu_memory_bytes or 0) / MIB for sample in figures.samples]
        memory.plot(at_s, cards, linewidth=1, linestyle="--", label="GPU")
        heat[0].plot(at_s, [sample.temperature_c for sample in figures.samples], color="#d95f02")
        heat[0].set(ylabel="hottest GPU, °C", ylim=(0, None))
    memory.legend(fontsize=7, frameon=False, ncols=3)
    memory.set(ylabel="resident MiB", ylim=(0, None))
    figure.axes[-1].set_xlabel("seconds since the first row began")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)
