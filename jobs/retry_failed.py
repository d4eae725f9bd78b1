"""Dead letters once more: ``python -m jobs.retry_failed BATCH``, for `ray job submit`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.api import HomeOption, KeyOption, UrlOption, command, finish, follow, reach, say
from raybatch.actors.connection import Json


def main(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH")],
    error_types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Only rows that failed so; may be given again."),
    ] = None,
    custom_ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="CUSTOM_ID", help="Only these rows; may be given again."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the batch has ended again.")] = False,
    home: HomeOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Run the rows of BATCH that failed for good again: all, or those that match both --type and --id.

    What was answered stays. With --wait the exit status is 1 unless the batch completed.
    """
    connection = reach(home, url, api_key)
    batch = connection.post(f"/v1/batches/{batch_id}/retry", _chosen(error_types, custom_ids))
    counts = batch["request_counts"]
    rows = counts["total"] - counts["completed"] - counts["failed"]
    say(f"{batch_id}: {rows:,} rows run again, {counts['failed']:,} failed ones are left as they are")
    if wait:
        finish(follow(connection, batch_id))


def _chosen(error_types: list[str] | None, custom_ids: list[str] | None) -> Json:
    named = {"error_types": error_types, "custom_ids": custom_ids}
    return {key: names for key, names in named.items() if names}


if __name__ == "__main__":
    command(main)
