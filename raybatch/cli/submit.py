"""`raybatch submit`: a JSONL file of requests becomes a batch, through the stock OpenAI client."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

from raybatch.actors.connection import Connection, Json, looks
from raybatch.actors.submission import Sent, create, first_endpoint, metadata_pairs
from raybatch.cli.progress import LINE_EVERY_S, ending, follow, succeeded
from raybatch.cli.show import print_json, printable, size, stderr
from raybatch.core.model import BatchStatus
from raybatch.errors import OperatorError


def submit(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="JSONL in OpenAI's batch format; - reads standard input.")],
    model: Annotated[
        str | None, typer.Option(help="Run every request with this model, whatever the file names.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Such as /v1/chat/completions; default: the first line's.")
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the batch instead of its id.")] = False,
) -> None:
    """Upload FILE and run it as a batch. Prints the batch's id.

    Stays until every line was checked: when the batch fails there, each bad line is named.
    """
    connection, console = ctx.ensure_object(Connection), stderr()
    pairs = metadata_pairs(metadata or ())
    with requests_file(file, model) as path:
        found_endpoint = endpoint or first_endpoint(path)
        with shown_upload(console) as sent:
            batch_id = create(connection, path, _name(file), found_endpoint, pairs, priority, relaxed, sent)
    if not as_json:
        typer.echo(batch_id)
    batch = checked(connection, batch_id)
    if batch["status"] == BatchStatus.FAILED:
        print_errors(batch, console)
    elif wait:
        batch = follow(connection, batch_id, console)
        console.print(ending(batch))
    if as_json:
        print_json(batch)
    if batch["status"] == BatchStatus.FAILED or (wait and not succeeded(batch)):
        raise typer.Exit(1)


@contextmanager
def requests_file(given: str, model: str | None) -> Iterator[Path]:
    """A file on disk with the requests: the given one where it can be uploaded as it is."""
    if given != "-" and not Path(given).is_file():
        raise OperatorError(f"there is no file {given}")
    if given != "-" and model is None:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="raybatch-submit-") as folder:
        path = Path(folder) / "requests.jsonl"
        with path.open("wb") as target, _opened(given) as source:
            if model is None:
                shutil.copyfileobj(source, target)
            else:
                target.writelines(with_model(line, model) for line in source)
        yield path


def with_model(line: bytes, model: str) -> bytes:
    """The request with another model. A line that is no request is left to the server to fault."""
    try:
        request = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return line
    if not isinstance(request, dict) or not isinstance(request.get("body"), dict):
        return line
    request["body"]["model"] = model
    return msgspec.json.encode(request) + b"\n"


@contextmanager
def shown_upload(console: Console) -> Iterator[Sent]:
    """How far a large file has come: a live bar in a terminal, plain lines anywhere else."""
    if not console.is_terminal:
        yield _upload_lines(console)
        return
    columns = (SpinnerColumn(), TextColumn("uploading"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(*columns, TransferSpeedColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("", visible=False)
        yield lambda sent, whole: progress.update(bar, completed=sent, total=whole, visible=True)


def _upload_lines(console: Console) -> Sent:
    line_at_mono = time.monotonic()

    def show(sent_bytes: int, whole_bytes: int) -> None:
        nonlocal line_at_mono
        if sent_bytes < whole_bytes and time.monotonic() - line_at_mono < LINE_EVERY_S:
            return
        line_at_mono = time.monotonic()
        console.print(f"uploaded {size(sent_bytes)} of {size(whole_bytes)}")

    return show


def checked(connection: Connection, batch_id: str) -> Json:
    """The batch once intake has read every line of it."""
    batch = connection.batch(batch_id)
    with stderr().status("checking every line"):
        for seen in looks(connection, batch_id, batch):
            if isinstance(seen, dict):
                batch = seen
            if batch["status"] != BatchStatus.VALIDATING:
                break
    return batch


def print_errors(batch: Json, console: Console) -> None:
    console.print(f"{batch['id']} failed: nothing was run", style="red")
    for error in (batch.get("errors") or {}).get("data") or ():
        place = f"line {error['line']}: " if error.get("line") else ""
        console.print(f"  {place}{printable(error['message'])} ({error['code']})", soft_wrap=True)


@contextmanager
def _opened(given: str) -> Iterator[BinaryIO]:
    if given == "-":
        yield sys.stdin.buffer
    else:
        with Path(given).open("rb") as file:
            yield file


def _name(given: str) -> str:
    return "stdin.jsonl" if given == "-" else Path(given).name
