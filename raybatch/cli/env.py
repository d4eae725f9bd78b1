"""`raybatch env`: what a shell needs for Ray's own commands to reach this cluster.

``eval "$(raybatch env)"``, then ``ray job submit`` and the others work.
"""

from __future__ import annotations

import shlex

import typer

from raybatch.actors.connection import Connection
from raybatch.errors import OperatorError


def env(ctx: typer.Context) -> None:
    """Print export lines for `ray job submit` and Ray's other commands."""
    from raybatch.actors.cluster_facts import running

    home = ctx.ensure_object(Connection).home
    facts = running(home)
    if facts is None:
        raise OperatorError(f"no raybatch runs in {home.root}: start one with `raybatch up`")
    if facts.dashboard_url is None:
        message = "Ray's dashboard, which takes jobs, is off here: start with --set ray.dashboard=true"
        raise OperatorError(message)
    variables = {
        "RAYBATCH_HOME": str(home.root),
        "RAY_API_SERVER_ADDRESS": facts.dashboard_url,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home.run / "ray_token"),
    }
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")
