"""A file of requests becomes a batch: ``python -m jobs.submit_batch FILE``, for `ray job submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import msgspec
import typer

from jobs.api import Api, HomeOption, KeyOption, UrlOption, command, finish, follow
from raybatch.errors import OperatorError

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
SHOWN_BYTES_MAX: Final = 80


def main(
    file: Annotated[Path, typer.Argument(help="JSONL in OpenAI's batch format.")],
    endpoint: Annotated[
        str | None, typer.Option(help="Such as /v1/chat/completions; the first line's, unless given.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be given again.")
    ] = None,
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Higher runs first.")] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the batch has ended.")] = False,
    home: HomeOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Upload FILE and run it as a batch; prints the batch's id.

    With --wait also how it goes and how it ended; the exit status is 1 then, unless it completed.
    """
    pairs = dict(pair(word) for word in metadata or ())
    found_endpoint = endpoint or first_endpoint(file)
    api = Api.find(home, url, api_key)
    batch_id = create(api, file, found_endpoint, pairs, priority)
    typer.echo(batch_id)
    if wait:
        finish(follow(api, batch_id))


def create(api: Api, path: Path, endpoint: str, metadata: dict[str, str], priority: int) -> str:
    """Upload and create, through OpenAI's own client; the new batch's id."""
    extra: dict[str, Any] = {"priority": priority} if priority else {}
    with api.stock_client() as client, opened(path) as file:
        uploaded = client.files.create(file=(path.name, file), purpose="batch")
        batch = client.batches.create(
            input_file_id=uploaded.id,
            endpoint=endpoint,  # type: ignore[arg-type]  # the server says which ones it serves
            completion_window="24h",
            metadata=metadata or None,
            extra_body=extra,
        )
    return batch.id


def first_endpoint(path: Path) -> str:
    """The first request's ``url``: all lines of a batch share it. Raises OperatorError naming the line."""
    with opened(path) as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        found = msgspec.json.decode(first.removeprefix(BYTE_ORDER_MARK))["url"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        found = None
    if not isinstance(found, str):
        shown = first[:SHOWN_BYTES_MAX].decode(errors="replace").strip()
        raise OperatorError(
            f"{path} begins with no request that names its url; found: {shown!r}. Expected lines such as"
            ' {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}};'
            " or name the endpoint with --endpoint"
        )
    return found


def opened(path: Path) -> BinaryIO:
    """For reading bytes. A relative path is meant from where the command runs."""
    try:
        return path.open("rb")
    except OSError as error:
        raise OperatorError(
            f"cannot read {path} from {Path.cwd()} ({error.strerror}): a Ray job starts where"
            " `raybatch up` was run, so give it an absolute path"
        ) from None


def pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise OperatorError(f"--metadata takes KEY=VALUE, not '{word}'")
    return key, value


if __name__ == "__main__":
    command(main)
