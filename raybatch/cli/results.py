"""`raybatch results`: what a batch has answered so far, as a file."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from raybatch.cli.connection import Connection
from raybatch.cli.show import size, stderr
from raybatch.errors import OperatorError

FORMATS = {".jsonl": "jsonl", ".parquet": "parquet", ".csv": "csv"}


class Kind(StrEnum):
    OUTPUT = "output"
    ERROR = "error"
    ALL = "all"


def results(
    ctx: typer.Context,
    batch_id: Annotated[str, typer.Argument(metavar="BATCH")],
    out: Annotated[
        str, typer.Option("-o", "--out", help="OUT.jsonl, OUT.parquet or OUT.csv; - for JSONL on stdout.")
    ],
    kind: Annotated[Kind, typer.Option(help="Answered rows, failed rows, or all (JSONL only).")] = Kind.ALL,
) -> None:
    """Fetch BATCH's results in input order, also while it runs. OUT is there whole or not at all."""
    shape = result_format(out, kind)
    path = f"/v1/batches/{batch_id}/results"
    with Connection.of(ctx).download(path, format=shape, kind=kind.value) as pieces:
        if out == "-":
            sys.stdout.buffer.writelines(pieces)
            sys.stdout.buffer.flush()
            return
        written_bytes = write_whole(Path(out), pieces)
    stderr().print(f"{out}: {size(written_bytes)}", soft_wrap=True)


def result_format(out: str, kind: Kind) -> str:
    """Raises OperatorError when the file's ending names no format, or one that has no such ``kind``."""
    shape = "jsonl" if out == "-" else FORMATS.get(Path(out).suffix.lower())
    if shape is None:
        raise OperatorError(f"'{out}' does not say which format: end it in one of {', '.join(FORMATS)}")
    if shape != "jsonl" and kind is not Kind.ALL:
        raise OperatorError(
            f"{shape} files hold all rows, and --kind {kind} is for .jsonl: filter on status_code"
        )
    return shape


def write_whole(out: Path, pieces: Iterator[bytes]) -> int:
    """Write beside ``out``, then rename; returns the bytes written. An error changes nothing."""
    try:
        with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as temporary:
            unfinished = Path(temporary.name)
            try:
                temporary.writelines(pieces)
                written_bytes = temporary.tell()
                unfinished.chmod(0o644)
                unfinished.replace(out)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise OperatorError(f"cannot write {out}: {error.strerror or error}") from None
    return written_bytes
