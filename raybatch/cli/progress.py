"""A batch's way to its end, shown as it goes: a live bar in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from raybatch.actors.connection import Connection, Json, looks
from raybatch.cli.show import duration
from raybatch.core.model import TERMINAL, BatchStatus

LINE_EVERY_S = 5.0  #: in plain lines, while nothing but counts change


def follow(
    connection: Connection, batch_id: str, console: Console, check: Callable[[], None] | None = None
) -> Json:
    """Show the batch until it ends and return it as it ended.

    Raises at once when the first look fails; after that a server that goes away is waited for. ``check``:
    called after each look; what it raises ends the waiting.
    """
    batch = connection.batch(batch_id)
    with _Bar(console) if console.is_terminal else _Lines(console) as display:
        display.show(batch)
        for seen in looks(connection, batch_id, batch):
            if isinstance(seen, str):
                display.lost(seen)
            else:
                batch = seen
                display.show(batch)
            if check is not None:
                check()
    return batch


def ending(batch: Json) -> str:
    """``completed: 512 of 512 rows, 0 failed, 12,345 tokens generated in 23 s``."""
    counts, usage = batch["request_counts"], batch.get("usage") or {}
    words = [
        f"{batch['status']}: {counts['completed']:,} of {counts['total']:,} rows",
        f"{counts['failed']:,} failed",
    ]
    ended_at = next((batch[f"{word}_at"] for word in TERMINAL if batch.get(f"{word}_at")), None)
    spent = f" in {duration(ended_at - batch['created_at'])}" if ended_at else ""
    return ", ".join(words) + f", {usage.get('output_tokens', 0):,} tokens generated{spent}"


def succeeded(batch: Json) -> bool:
    return bool(batch["status"] == BatchStatus.COMPLETED)


def pace(batch: Json) -> str:
    """``35.2 rows/s · 704 tokens/s · 12 s left (at most 15 s)``, as far as the server knows it.

    Nine of ten batches end within what is called "at most".
    """
    known = batch.get("raybatch") or {}
    if known.get("paused"):
        return "paused"
    eta = known.get("eta")
    words = [
        f"{known.get('rows_per_s') or 0:,.1f} rows/s",
        f"{known.get('tokens_per_s') or 0:,.0f} tokens/s",
        *([] if eta is None else [f"{duration(eta['p50_s'])} left (at most {duration(eta['p90_s'])})"]),
    ]
    return " · ".join(words)


class _Display(Protocol):
    def show(self, batch: Json) -> None: ...

    def lost(self, reason: str) -> None: ...


class _Bar:
    """In a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}", markup=False),
            console=console,
        )
        self._bar: TaskID = self._progress.add_task("", total=None, pace="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, batch: Json) -> None:
        counts = batch["request_counts"]
        self._progress.update(
            self._bar,
            description=f"{batch['id']} {batch['status']}",
            total=counts["total"] or None,
            completed=counts["completed"] + counts["failed"],
            pace=pace(batch) if batch["status"] == BatchStatus.IN_PROGRESS else "",
        )

    def lost(self, reason: str) -> None:
        self._progress.update(self._bar, pace="the server does not answer, trying again")


class _Lines:
    """Into a file or a pipe: a line when the status changes, and now and then in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = ""
        self._line_at_mono = 0.0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, batch: Json) -> None:
        now_mono = time.monotonic()
        if batch["status"] == self._status and now_mono - self._line_at_mono < LINE_EVERY_S:
            return
        self._status, self._line_at_mono = batch["status"], now_mono
        counts = batch["request_counts"]
        ended = counts["completed"] + counts["failed"]
        line = f"{batch['id']} {batch['status']} {ended:,}/{counts['total']:,} rows"
        self._print(f"{line} · {pace(batch)}" if batch["status"] == BatchStatus.IN_PROGRESS else line)

    def lost(self, reason: str) -> None:
        if self._status != "lost":
            self._status = "lost"
            self._print(f"{reason}; trying again")

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
