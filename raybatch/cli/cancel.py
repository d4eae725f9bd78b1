"""`raybatch cancel`: stop a batch, keep what it has answered."""

from __future__ import annotations

from typing import Annotated

import typer

from raybatch.actors.connection import Connection
from raybatch.cli.show import print_json


def cancel(
    ctx: typer.Context,
    batch_id: Annotated[str, typer.Argument(metavar="BATCH")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the batch.")] = False,
) -> None:
    """Stop BATCH. Finished rows stay, rows that were never answered become error rows."""
    batch = ctx.ensure_object(Connection).post(f"/v1/batches/{batch_id}/cancel")
    if as_json:
        print_json(batch)
    else:
        typer.echo(f"{batch['id']} {batch['status']}")
