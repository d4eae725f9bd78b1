"""`raybatch retry`: run failed requests of an ended batch again."""

from __future__ import annotations

from typing import Annotated

import typer

from raybatch.actors.connection import Connection, Json
from raybatch.cli.progress import ending, follow, succeeded
from raybatch.cli.show import print_json, stderr


def retry(
    ctx: typer.Context,
    batch_id: Annotated[str, typer.Argument(metavar="BATCH")],
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="Only what failed with this error type; may be given again."),
    ] = None,
    custom_ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="CUSTOM_ID", help="Only this request; may be given again."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the batch has ended again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the batch.")] = False,
) -> None:
    """Run what failed in BATCH again: all of it, or what matches both --type and --id where given.

    The batch ends again under new file ids; the files it has now stay as they are.
    """
    connection, console = ctx.ensure_object(Connection), stderr()
    chosen: Json = {"error_types": types, "custom_ids": custom_ids}
    batch = connection.post(
        f"/v1/batches/{batch_id}/retry", {name: given for name, given in chosen.items() if given}
    )
    if not as_json:
        counts = batch["request_counts"]
        rows = counts["total"] - counts["completed"] - counts["failed"]
        typer.echo(f"{batch['id']} {batch['status']}: {rows:,} requests run again")
    if wait:
        batch = follow(connection, batch_id, console)
        console.print(ending(batch))
    if as_json:
        print_json(batch)
    if wait and not succeeded(batch):
        raise typer.Exit(1)
