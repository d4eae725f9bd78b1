"""What the operators' jobs share: the options that find a raybatch, how a batch goes, how a job ends.

A Ray job inherits RAYBATCH_HOME from the cluster that runs it, so nothing need be said there.
Refuses to repeat anything but a look at a batch that is waited for.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated, Final

import typer

from raybatch.actors.cluster_facts import running
from raybatch.actors.connection import Connection, Json, looks
from raybatch.config import Home
from raybatch.core.model import BatchStatus
from raybatch.errors import OperatorError, RaybatchError

LINE_EVERY_S: Final = 5.0  #: while nothing but counts change
TERMINATED_EXIT: Final = 128 + signal.SIGTERM

HomeOption = Annotated[
    str | None,
    typer.Option("--home", envvar="RAYBATCH_HOME", help="Of a raybatch on this machine (~/.raybatch)."),
]
UrlOption = Annotated[
    str | None, typer.Option("--url", envvar="RAYBATCH_URL", help="Of the API, when it is another one's.")
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key", envvar="RAYBATCH_API_KEY", help="Where the API asks for one.")
]


def reach(home: str | None, url: str | None = None, api_key: str | None = None) -> Connection:
    """At ``url``, else of the home's running cluster. Raises OperatorError when none runs there."""
    return Connection.find(home, url or _running_url(Home.find(home)), api_key)


def _running_url(home: Home) -> str:
    facts = running(home)
    if facts is None:
        raise OperatorError(
            f"no raybatch runs at {home.root}: start one with `raybatch up`, name its home with --home"
            " or RAYBATCH_HOME, or one on another machine with --url or RAYBATCH_URL"
        )
    return facts.api_url


def follow(connection: Connection, batch_id: str) -> Json:
    """Say how the batch goes until it has ended; the batch as it ended.

    Raises what the first look raises; after that a server that goes away is waited for.
    """
    lines = Lines()
    batch = connection.batch(batch_id)
    lines.say(batch["status"], progress(batch))
    for seen in looks(connection, batch_id, batch):
        if isinstance(seen, str):
            lines.say("away", f"{seen}; looking again")
        else:
            batch = seen
            lines.say(batch["status"], progress(batch))
    return batch


def finish(batch: Json) -> None:
    """Say how an ended batch ended; exit status 1 unless it completed."""
    counts, usage = batch["request_counts"], batch.get("usage") or {}
    say(
        f"{batch['id']} {batch['status']}: {counts['completed']:,} of {counts['total']:,} rows answered,"
        f" {counts['failed']:,} failed, {usage.get('output_tokens', 0):,} tokens generated"
    )
    for error in (batch.get("errors") or {}).get("data") or ():
        place = f"line {error['line']}: " if error.get("line") else ""
        say(f"  {place}{error['message']} ({error['code']})")
    if batch["status"] != BatchStatus.COMPLETED:
        raise typer.Exit(1)


def progress(batch: Json) -> str:
    """``batch_1 in_progress 120/512 rows, 35.2 rows/s, 11 s left``, as far as the server knows it."""
    counts, known = batch["request_counts"], batch.get("raybatch") or {}
    words = [
        f"{batch['id']} {batch['status']} {counts['completed'] + counts['failed']:,}/{counts['total']:,} rows"
    ]
    if batch["status"] == BatchStatus.IN_PROGRESS:
        words.append(f"{known.get('rows_per_s') or 0:,.1f} rows/s")
        words += [] if known.get("eta_s") is None else [f"{known['eta_s']:,.0f} s left"]
    return ", ".join(words)


class Lines:
    """Says a line when the topic changes, and now and then in between."""

    def __init__(self) -> None:
        self._topic = ""
        self._said_mono = 0.0

    def say(self, topic: str, line: str) -> None:
        now_mono = time.monotonic()
        if topic != self._topic or now_mono - self._said_mono >= LINE_EVERY_S:
            self._topic, self._said_mono = topic, now_mono
            say(line)


def say(line: str) -> None:
    """To stderr, without control characters: what a file contains must not drive a terminal."""
    typer.echo(
        "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line), err=True
    )


def command(main: Callable[..., None]) -> None:
    """Run ``main`` as a command line. An error raised on purpose is one line on stderr and exit status 1."""
    clean_up_on_sigterm()
    try:
        typer.run(main)
    except RaybatchError as error:
        say(f"raybatch: {error.message}")
        sys.exit(1)


def clean_up_on_sigterm() -> None:
    """What is half done is undone on the way out of `ray job stop`, and no second signal cuts that short."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(TERMINATED_EXIT)

    signal.signal(signal.SIGTERM, end)
