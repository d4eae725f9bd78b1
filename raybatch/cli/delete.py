"""`raybatch delete`: forget a batch and its results, after saying what goes and what stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from raybatch.actors.connection import Connection, Json
from raybatch.cli.show import printable, size
from raybatch.cli.verify import ENDED
from raybatch.errors import NotFound


def delete(
    ctx: typer.Context,
    batch_id: Annotated[str, typer.Argument(metavar="BATCH")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete BATCH with its results and its log. One that still runs is cancelled first, and kept."""
    connection = ctx.ensure_object(Connection)
    batch = connection.batch(batch_id)
    active = batch["status"] not in ENDED
    for line in _active(batch) if active else _ended(connection, batch):
        typer.echo(printable(line))
    if not yes:
        typer.confirm("Cancel it?" if active else "Delete it?", abort=True)
    answer = connection.delete(f"/v1/batches/{batch_id}")
    typer.echo(f"{batch_id} {'deleted' if answer['deleted'] else answer['status']}")


def _active(batch: Json) -> Iterator[str]:
    counts = batch["request_counts"]
    done = counts["completed"] + counts["failed"]
    yield f"{batch['id']} is {batch['status']}, with {done:,} of {counts['total']:,} rows answered"
    yield "it is cancelled; its finished rows stay until `raybatch delete` is run once it has ended"


def _ended(connection: Connection, batch: Json) -> Iterator[str]:
    counts = batch["request_counts"]
    yield f"{batch['id']} is {batch['status']}; for good go"
    yield f"  {counts['completed']:,} answers and {counts['failed']:,} errors, of all its rounds, and its log"
    for kind in ("output", "error"):
        file = _file(connection, batch[f"{kind}_file_id"])
        if file is not None:
            yield f"  {kind} file {file['id']}, {size(file['bytes'])}"
    upload = _file(connection, batch["input_file_id"])
    if upload is None:
        yield f"  what is left of input file {batch['input_file_id']}, unless another batch reads it"
    yield "what stays"
    if upload is not None:
        yield f"  input file {upload['id']} ({upload['filename']}, {size(upload['bytes'])})"
    yield "  whatever was downloaded, exported or backed up: raybatch does not know of it"


def _file(connection: Connection, file_id: str | None) -> Json | None:
    """None when there is no such file, or not any more."""
    if file_id is None:
        return None
    try:
        file: Json = connection.get(f"/v1/files/{file_id}")
    except NotFound:
        return None
    return file
