"""`raybatch results`: what a batch has answered so far, as a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raybatch.actors.connection import Connection
from raybatch.actors.result_file import Kind, result_format, write_whole
from raybatch.cli.show import size, stderr


def results(
    ctx: typer.Context,
    batch_id: Annotated[str, typer.Argument(metavar="BATCH")],
    out: Annotated[
        str, typer.Option("-o", "--out", help="OUT.jsonl, OUT.parquet or OUT.csv; - for JSONL on stdout.")
    ],
    kind: Annotated[Kind, typer.Option(help="Answered rows, failed rows, or all.")] = Kind.ALL,
) -> None:
    """Fetch BATCH's results in input order, also while it runs. OUT is there whole or not at all."""
    shape = "jsonl" if out == "-" else result_format(Path(out))
    path = f"/v1/batches/{batch_id}/results"
    with ctx.ensure_object(Connection).download(path, format=shape, kind=kind.value) as pieces:
        if out == "-":
            sys.stdout.buffer.writelines(pieces)
            sys.stdout.buffer.flush()
            return
        written_bytes = write_whole(Path(out), pieces)
    stderr().print(f"{out}: {size(written_bytes)}", soft_wrap=True)
