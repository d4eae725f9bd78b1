"""`raybatch submit`: a JSONL file of requests becomes a batch, through the stock OpenAI client."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer
from rich.console import Console

from raybatch.cli.connection import Connection, Json
from raybatch.cli.progress import ending, follow, look, looks, succeeded
from raybatch.cli.show import print_json, printable, stderr
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
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the batch has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the batch instead of its id.")] = False,
) -> None:
    """Upload FILE and run it as a batch. Prints the batch's id.

    Stays until every line was checked: when the batch fails there, each bad line is named.
    """
    connection, console = Connection.of(ctx), stderr()
    pairs = dict(_pair(word) for word in metadata or ())
    with requests_file(file, model) as path:
        batch_id = create(connection, path, _name(file), endpoint or first_endpoint(path), pairs, priority)
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


def first_endpoint(path: Path) -> str:
    """The first request's ``url``: all lines of a batch share it."""
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        found = msgspec.json.decode(first.removeprefix(b"\xef\xbb\xbf"))["url"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        found = None
    if not isinstance(found, str):
        shown = printable(first[:80].decode(errors="replace"))
        raise OperatorError(
            'the first line is not a request such as {"custom_id":"1","method":"POST",'
            f'"url":"/v1/chat/completions","body":{{…}}}}; found: {shown.strip()}'
        )
    return found


def create(
    connection: Connection, path: Path, name: str, endpoint: str, metadata: dict[str, str], priority: int = 0
) -> str:
    """Upload and create; the new batch's id."""
    extra: dict[str, Any] = {"priority": priority} if priority else {}
    with connection.stock_client() as client, path.open("rb") as file:
        uploaded = client.files.create(file=(name, file), purpose="batch")
        batch = client.batches.create(
            input_file_id=uploaded.id,
            endpoint=endpoint,  # type: ignore[arg-type]  # the server says which ones it serves
            completion_window="24h",
            metadata=metadata or None,
            extra_body=extra,
        )
    return batch.id


def checked(connection: Connection, batch_id: str) -> Json:
    """The batch once intake has read every line of it."""
    batch = look(connection, batch_id)
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


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise OperatorError(f"--metadata takes KEY=VALUE, not '{word}'")
    return key, value
