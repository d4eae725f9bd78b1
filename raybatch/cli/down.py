"""`raybatch down`: stop what `raybatch up` started."""

from __future__ import annotations

from typing import Annotated

import typer

from raybatch.actors.connection import Connection
from raybatch.cli.show import stderr


def down(
    ctx: typer.Context,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for rows in flight; they run again later.")
    ] = False,
) -> None:
    """Stop raybatch. Rows in flight get a moment to finish; unfinished batches go on at the next `up`."""
    from raybatch.actors import cluster

    home, console = ctx.ensure_object(Connection).home, stderr()
    if cluster.down(home, now, lambda line: console.print(line, soft_wrap=True)):
        console.print("raybatch is stopped")
    else:
        console.print(f"nothing was running at {home.root}", soft_wrap=True)
