"""How the commands look: consoles, tables, units. Text from outside is printed as it is, never as markup."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

PIPE_COLUMNS = 500  #: a pipe has no width to respect, and 80 would cut ids apart


def stdout() -> Console:
    return _console(stderr=False)


def stderr() -> Console:
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    console = Console(stderr=stderr, markup=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    return console


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(columns: Iterable[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A table whose numbers are right-aligned."""
    shown = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None)
    cells = [tuple(row) for row in rows]
    for place, column in enumerate(columns):
        numbers = bool(cells) and all(_is_number(row[place]) for row in cells)
        shown.add_column(printable(column), justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        shown.add_row(*(cell(value) for value in row))
    return shown


def cell(value: object) -> str:
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, bytes):
        return printable(value.decode(errors="replace"))
    return printable(str(value))


def printable(text: str) -> str:
    """Without control characters: an answer of a model must not drive the terminal."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def one_line(text: str, length_max: int) -> str:
    flat = " ".join(text.split())
    return printable(flat if len(flat) <= length_max else flat[: length_max - 1] + "…")


def size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def duration(duration_s: float | None) -> str:
    if duration_s is None:
        return "—"
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def instant(at: float | None) -> str:
    """UTC, to the second."""
    return "—" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
