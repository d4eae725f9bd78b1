"""`raybatch batches`: the newest batches, a line each."""

from __future__ import annotations

from typing import Annotated

import typer

from raybatch.actors.connection import Connection, Json
from raybatch.cli.show import instant, print_json, stdout, table


def batches(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=100, help="So many of the newest.")] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="BATCH", help="The ones older than this batch.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as the API answers it.")] = False,
) -> None:
    """List batches, newest first."""
    query: Json = {"limit": limit} | ({} if after is None else {"after": after})
    page = ctx.ensure_object(Connection).get("/v1/batches", **query)
    if as_json:
        print_json(page)
        return
    rows = [_row(batch) for batch in page["data"]]
    stdout().print(table(("batch", "status", "rows", "done", "failed", "model", "created"), rows))
    if page["has_more"]:
        typer.echo(f"older ones: raybatch batches --after {page['last_id']}")


def _row(batch: Json) -> tuple[object, ...]:
    counts = batch["request_counts"]
    return (
        batch["id"],
        batch["status"],
        counts["total"],
        counts["completed"],
        counts["failed"],
        batch.get("model"),
        instant(batch["created_at"]),
    )
