"""The command `raybatch`: one file a command, assembled here.

Global options may stand before or after the command's name. An error that raybatch raises on purpose is one
line on stderr and exit status 1; a traceback is a defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from raybatch.actors.connection import Connection
from raybatch.cli import (
    backup,
    batches,
    bench,
    cancel,
    delete,
    demo,
    demo_data,
    doctor,
    down,
    du,
    env,
    failed,
    logs,
    models,
    pause,
    rebuild,
    results,
    retry,
    sql,
    status,
    submit,
    tune,
    up,
    verify,
    watch,
)
from raybatch.cli.show import printable, stderr
from raybatch.errors import RaybatchError

GLOBAL_OPTIONS = ("--home", "--url", "--api-key")


class Commands(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, global_options_first(args))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RaybatchError as error:
            stderr().print(f"raybatch: {printable(error.message)}", style="red", soft_wrap=True)
            raise typer.Exit(1) from None


def global_options_first(args: Sequence[str]) -> list[str]:
    """``status --home X`` as ``--home X status``: nobody remembers which options come before the command."""
    first: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in GLOBAL_OPTIONS:
            first += [word, *islice(words, 1)]
        elif word.partition("=")[0] in GLOBAL_OPTIONS:
            first.append(word)
        else:
            rest.append(word)
    return [*first, *rest]


def start(
    ctx: typer.Context,
    home: Annotated[
        str | None,
        typer.Option(envvar="RAYBATCH_HOME", help="Where one raybatch keeps everything (~/.raybatch)."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(envvar="RAYBATCH_URL", help="The API's address, when it is not this home's own."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="RAYBATCH_API_KEY", help="The key, where the API asks for one.")
    ] = None,
) -> None:
    """Batch inference on your own machines: start it, hand in batches, fetch results, ask SQL."""
    ctx.obj = Connection.find(home, url, api_key)


def _assembled() -> typer.Typer:
    app = typer.Typer(
        cls=Commands,
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,  # a traceback must not print keys
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(start)
    app.command("up")(up.up)
    app.command("down")(down.down)
    app.command("status")(status.status)
    app.command("submit")(submit.submit)
    app.command("watch")(watch.watch)
    app.command("results")(results.results)
    app.command("failed")(failed.failed)
    app.command("retry")(retry.retry)
    app.command("pause")(pause.pause)
    app.command("resume")(pause.resume)
    app.command("cancel")(cancel.cancel)
    app.command("delete")(delete.delete)
    app.command("batches")(batches.batches)
    app.command("models")(models.models)
    app.command("sql")(sql.sql)
    app.command("logs")(logs.logs)
    app.command("env")(env.env)
    app.command("verify")(verify.verify)
    app.command("du")(du.du)
    app.command("doctor")(doctor.doctor)
    app.command("backup")(backup.backup)
    app.command("restore")(backup.restore)
    app.command("rebuild")(rebuild.rebuild)
    app.command("demo-data")(demo_data.demo_data)
    app.command("demo")(demo.demo)
    app.command("bench")(bench.bench)
    app.command("tune")(tune.tune)
    return app


app = _assembled()
