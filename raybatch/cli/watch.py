"""`raybatch watch`: a batch's progress until it has ended."""

from __future__ import annotations

from typing import Annotated

import typer

from raybatch.actors.connection import Connection
from raybatch.cli.progress import ending, follow, succeeded
from raybatch.cli.show import print_json, stderr, stdout
from raybatch.cli.submit import print_errors
from raybatch.core.model import BatchStatus


def watch(
    ctx: typer.Context,
    batch_id: Annotated[str, typer.Argument(metavar="BATCH")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the batch as it ended.")] = False,
) -> None:
    """Show rows, tokens and time left until BATCH has ended; exit status 0 when it completed.

    A server that is restarted meanwhile is waited for. Interrupting leaves the batch running.
    """
    console = stderr() if as_json else stdout()
    batch = follow(ctx.ensure_object(Connection), batch_id, console)
    if batch["status"] == BatchStatus.FAILED:
        print_errors(batch, console)
    else:
        console.print(ending(batch))
    if as_json:
        print_json(batch)
    if not succeeded(batch):
        raise typer.Exit(1)
