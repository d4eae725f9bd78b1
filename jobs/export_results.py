"""A batch's answers as a file: ``python -m jobs.export_results BATCH --to PATH``, for `ray job submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.api import HomeOption, KeyOption, UrlOption, command, reach, say
from raybatch.actors.result_file import Kind, result_format, write_whole


def main(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH")],
    to: Annotated[Path, typer.Option(help="PATH.jsonl, PATH.csv or PATH.parquet.")],
    kind: Annotated[Kind, typer.Option(help="Answered rows, failed rows, or all.")] = Kind.ALL,
    home: HomeOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Write the finished rows of BATCH in input order; PATH is there whole or not at all.

    Of a batch that still runs these are the rows so far.
    """
    shape = result_format(to)
    connection = reach(home, url, api_key)
    status = connection.batch(batch_id)["status"]
    with connection.download(f"/v1/batches/{batch_id}/results", format=shape, kind=kind.value) as pieces:
        written_bytes = write_whole(to, pieces)
    say(f"{to}: {written_bytes:,} bytes of {batch_id}, {status}")


if __name__ == "__main__":
    command(main)
