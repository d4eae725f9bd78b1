"""`raybatch models`: which models a request may name, and how each is doing."""

from __future__ import annotations

from typing import Annotated

import typer

from raybatch.actors.connection import Connection, Json
from raybatch.cli.show import one_line, print_json, stdout, table

ERROR_SHOWN_MAX = 200


def models(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as the API answers it.")] = False,
) -> None:
    """List the models this raybatch serves, aliases included."""
    served = ctx.ensure_object(Connection).get("/v1/models")
    if as_json:
        print_json(served)
        return
    columns = ("model", "state", "rows waiting", "rows/s", "tokens/s", "error")
    stdout().print(table(columns, [_row(model) for model in served["data"]]))


def _row(model: Json) -> tuple[object, ...]:
    state = model.get("raybatch") or {}
    return (
        model["id"],
        state.get("state"),
        state.get("queued_rows"),
        state.get("rows_per_s"),
        state.get("tokens_per_s"),
        one_line(state.get("error") or "", ERROR_SHOWN_MAX),
    )
