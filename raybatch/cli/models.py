"""`raybatch models`: which models a request may name."""

from __future__ import annotations

from typing import Annotated

import typer

from raybatch.cli.connection import Connection
from raybatch.cli.show import print_json


def models(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as the API answers it.")] = False,
) -> None:
    """List the models this raybatch serves, aliases included."""
    served = Connection.of(ctx).get("/v1/models")
    if as_json:
        print_json(served)
        return
    for model in served["data"]:
        typer.echo(model["id"])
