"""`raybatch failed`: which requests of a batch failed for good, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import typer

from raybatch.actors.connection import Connection, Json
from raybatch.cli.show import instant, one_line, print_json, stdout, table

MESSAGE_SHOWN_MAX = 120


def failed(
    ctx: typer.Context,
    batch_id: Annotated[str, typer.Argument(metavar="BATCH")],
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only of this error type; may be given again.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="So many rows, the first of the input.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Counts and rows as JSON.")] = False,
) -> None:
    """Say how many requests of BATCH failed for which reason, and show the first of them."""
    counts: Counter[str] = Counter()
    shown: list[Json] = []
    for letter in _letters(ctx.ensure_object(Connection), batch_id, types or []):
        counts[letter["error_type"]] += 1
        if len(shown) < limit:
            shown.append(letter)
    if as_json:
        print_json({"error_types": dict(counts.most_common()), "data": shown})
        return
    if not counts:
        typer.echo("no request failed")
        return
    stdout().print(table(("error type", "requests"), counts.most_common()))
    stdout().print()
    columns = ("index", "custom_id", "error type", "status", "attempts", "first", "last", "message")
    stdout().print(table(columns, [_row(letter) for letter in shown]))
    if counts.total() > len(shown):
        typer.echo(f"the first {len(shown):,} of {counts.total():,}: --limit shows more")


def _letters(connection: Connection, batch_id: str, types: list[str]) -> Iterator[Json]:
    """All of them, one at a time: a batch may have a million."""
    begun = b""
    path = f"/v1/batches/{batch_id}/failed"
    with connection.download(path, format="jsonl", error_type=types) as pieces:
        for piece in pieces:
            *lines, begun = (begun + piece).split(b"\n")
            yield from map(json.loads, lines)


def _row(letter: Json) -> tuple[object, ...]:
    return (
        letter["index"],
        letter["custom_id"],
        letter["error_type"],
        letter["status_code"],
        letter["attempts"],
        instant(letter["first_at"]),
        instant(letter["last_at"]),
        one_line(letter["error_message"] or "", MESSAGE_SHOWN_MAX),
    )
