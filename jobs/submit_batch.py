"""A file of requests becomes a batch: ``python -m jobs.submit_batch FILE``, for `ray job submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.api import HomeOption, KeyOption, UrlOption, command, finish, follow, reach
from raybatch.actors.submission import create, first_endpoint, metadata_pairs


def main(
    file: Annotated[Path, typer.Argument(help="JSONL in OpenAI's batch format.")],
    endpoint: Annotated[
        str | None, typer.Option(help="Such as /v1/chat/completions; the first line's, unless given.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be given again.")
    ] = None,
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Higher runs first.")] = 0,
    relaxed: Annotated[
        bool | None,
        typer.Option("--relaxed/--strict", help="Bad lines fail alone, and lines may name several models."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the batch has ended.")] = False,
    home: HomeOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Upload FILE and run it as a batch; prints the batch's id.

    With --wait also how it goes and how it ended; the exit status is 1 then, unless it completed.
    """
    pairs = metadata_pairs(metadata or ())
    found_endpoint = endpoint or first_endpoint(file)
    connection = reach(home, url, api_key)
    batch_id = create(connection, file, file.name, found_endpoint, pairs, priority, relaxed)
    typer.echo(batch_id)
    if wait:
        finish(follow(connection, batch_id))


if __name__ == "__main__":
    command(main)
