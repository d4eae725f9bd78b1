"""A batch's answers as a file: ``python -m jobs.export_results BATCH --to PATH``, for `ray job submit`."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from jobs.api import Api, HomeOption, KeyOption, UrlOption, command, say
from raybatch.errors import OperatorError
from raybatch.storage.atomic import atomic_file

FORMATS: Final = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}


class Kind(StrEnum):
    OUTPUT = "output"
    ERROR = "error"
    ALL = "all"


def main(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH")],
    to: Annotated[Path, typer.Option(help="PATH.jsonl, PATH.csv or PATH.parquet.")],
    kind: Annotated[Kind, typer.Option(help="Answered rows, failed rows, or all (JSONL only).")] = Kind.ALL,
    home: HomeOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Write the finished rows of BATCH in input order; PATH is there whole or not at all.

    Of a batch that still runs these are the rows so far.
    """
    shape = file_format(to, kind)
    api = Api.find(home, url, api_key)
    status = api.batch(batch_id)["status"]
    with api.download(f"/v1/batches/{batch_id}/results", format=shape, kind=kind.value) as pieces:
        written_bytes = write_whole(to, pieces)
    say(f"{to}: {written_bytes:,} bytes of {batch_id}, {status}")


def file_format(to: Path, kind: Kind) -> str:
    """Raises OperatorError when the name's ending says no format, or one that has no such ``kind``."""
    shape = FORMATS.get(to.suffix.lower())
    if shape is None:
        raise OperatorError(f"'{to}' does not say which format: end it in one of {', '.join(FORMATS)}")
    if shape != "jsonl" and kind is not Kind.ALL:
        raise OperatorError(
            f"{shape} files hold all rows, and --kind {kind} is for .jsonl: filter on status_code"
        )
    return shape


def write_whole(to: Path, pieces: Iterator[bytes]) -> int:
    """The bytes written. When the pieces break off, whatever had the name ``to`` stays as it was."""
    try:
        with atomic_file(to) as temporary, temporary.open("xb") as file:
            file.writelines(pieces)
            written_bytes = file.tell()
    except OSError as error:
        raise OperatorError(f"cannot write {to}: {error.strerror or error}") from None
    return written_bytes


if __name__ == "__main__":
    command(main)
