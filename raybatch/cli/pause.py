"""`raybatch pause` and `raybatch resume`: one batch, or everything."""

from __future__ import annotations

from typing import Annotated

import typer

from raybatch.actors.connection import Connection

BatchOrAll = Annotated[str | None, typer.Argument(metavar="[BATCH]", help="Without it: everything.")]


def pause(ctx: typer.Context, batch_id: BatchOrAll = None) -> None:
    """Start no further row of BATCH, or of any batch. Rows that run may finish; nothing is lost."""
    _switch(ctx.ensure_object(Connection), batch_id, on=True)


def resume(ctx: typer.Context, batch_id: BatchOrAll = None) -> None:
    """Go on with BATCH, or with everything. A batch that was paused by itself stays so until it is named."""
    _switch(ctx.ensure_object(Connection), batch_id, on=False)


def _switch(connection: Connection, batch_id: str | None, on: bool) -> None:
    if batch_id is None:
        connection.admin("POST", "/admin/pause", {"on": on})
        typer.echo("everything is paused" if on else "everything goes on")
        return
    batch = connection.post(f"/v1/batches/{batch_id}/{'pause' if on else 'resume'}")
    paused = batch["raybatch"]["paused"]
    typer.echo(f"{batch['id']} {'paused' if paused else batch['status']}")
    if paused and not on:
        typer.echo("everything is paused: `raybatch resume` goes on", err=True)
