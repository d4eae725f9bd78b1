"""The way from an operator's command to a raybatch: where it is, what it answered, how a batch goes.

A Ray job inherits RAYBATCH_HOME from the cluster that runs it, so nothing need be said there.
Refuses to repeat anything but a look at a batch that is waited for; OpenAI's client has rules of its own.
"""

from __future__ import annotations

import ipaddress
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import httpx
import typer

from raybatch import errors
from raybatch.actors.cluster_facts import running
from raybatch.config import Home
from raybatch.core.model import TERMINAL, BatchStatus
from raybatch.errors import OperatorError, RaybatchError, Refused, Unavailable

if TYPE_CHECKING:
    import openai

Json = dict[str, Any]

CONNECT_MAX_S: Final = 5.0
ANSWER_MAX_S: Final = 120.0  #: between two pieces of an answer
LOOK_S: Final = 1.0
LINE_EVERY_S: Final = 5.0  #: while nothing but counts change
TERMINATED_EXIT: Final = 128 + signal.SIGTERM
_KINDS: Final = (errors.BadRequest, errors.Unauthorized, errors.NotFound, errors.Conflict, errors.TooLarge)

HomeOption = Annotated[
    str | None,
    typer.Option("--home", envvar="RAYBATCH_HOME", help="Of a raybatch on this machine (~/.raybatch)."),
]
UrlOption = Annotated[
    str | None, typer.Option("--url", envvar="RAYBATCH_URL", help="Of the API, when it is another one's.")
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key", envvar="RAYBATCH_API_KEY", help="Where the API asks for one.")
]


@dataclass(frozen=True)
class Api:
    url: str  #: without a slash at its end
    key: str | None

    @classmethod
    def find(cls, home: str | None, url: str | None, key: str | None) -> Api:
        """At ``url``, else of the home's running cluster. Raises OperatorError when none runs there."""
        return cls((url or running_url(Home.find(home))).rstrip("/"), key)

    def batch(self, batch_id: str) -> Json:
        """Raises NotFound; Unavailable when the server does not answer, or not now."""
        return self._json("GET", f"/v1/batches/{batch_id}")

    def post(self, path: str, body: Json) -> Json:
        """The JSON answered. Raises as ``batch`` does, and whichever ClientError the server names."""
        return self._json("POST", path, json=body)

    @contextmanager
    def download(self, path: str, **query: str) -> Iterator[Iterator[bytes]]:
        """The answer's bytes, piece by piece. Raises Unavailable when the connection breaks off."""
        with self._explained(), self._http.stream("GET", path, params=query) as answer:
            if answer.status_code >= 400:
                raise self._refusal(answer.status_code, answer.read())
            yield answer.iter_bytes()

    @contextmanager
    def stock_client(self) -> Iterator[openai.OpenAI]:
        """OpenAI's own client, its errors turned into ours."""
        import openai

        with openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.key or "none",
            http_client=openai.DefaultHttpxClient(trust_env=self._through_proxies),
        ) as client:
            try:
                yield client
            except openai.APIStatusError as error:
                raise self._refusal(error.status_code, error.response.content) from None
            except openai.APIConnectionError as error:
                raise self._unreachable(error.__cause__ or error) from None

    def _json(self, method: str, path: str, **content: Any) -> Json:
        with self._explained():
            answer = self._http.request(method, path, **content)
        if answer.status_code >= 400:
            raise self._refusal(answer.status_code, answer.content)
        try:
            found: Json = answer.json()
        except ValueError:
            raise OperatorError(f"{self.url} answered {path} without JSON: is it a raybatch?") from None
        return found

    @cached_property
    def _http(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=httpx.Timeout(ANSWER_MAX_S, connect=CONNECT_MAX_S),
            trust_env=self._through_proxies,
        )

    @property
    def _through_proxies(self) -> bool:
        host = urlsplit(self.url).hostname or ""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return host != "localhost"
        return not (address.is_loopback or address.is_unspecified)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.InvalidURL as error:
            raise OperatorError(
                f"'{self.url}' is not an address such as http://127.0.0.1:8420: {error}"
            ) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise self._unreachable(error) from None
        except httpx.TransportError as error:
            message = f"the connection to {self.url} broke off ({error}): ask again"
            raise Unavailable(message, retry_after_s=1) from None

    def _unreachable(self, cause: BaseException) -> Unavailable:
        message = f"no raybatch answers at {self.url} ({cause}): see `raybatch status`, or give another --url"
        return Unavailable(message, retry_after_s=1)

    def _refusal(self, status: int, content: bytes) -> RaybatchError:
        try:
            message = str(json.loads(content)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"{self.url} answered with HTTP status {status}"
        if status == 401 and self.key is None:
            message += " Pass the key with --api-key or RAYBATCH_API_KEY."
        if status >= 500 or status == 429:
            return Unavailable(message, retry_after_s=1)
        kind = next((kind for kind in _KINDS if kind.status == status), OperatorError)
        return kind(message)


def running_url(home: Home) -> str:
    """Where the API of the home's cluster listens. Raises OperatorError when none runs."""
    facts = running(home)
    if facts is None:
        raise OperatorError(
            f"no raybatch runs at {home.root}: start one with `raybatch up`, name its home with --home"
            " or RAYBATCH_HOME, or one on another machine with --url or RAYBATCH_URL"
        )
    return facts.api_url


def follow(api: Api, batch_id: str) -> Json:
    """Say how the batch goes until it has ended; the batch as it ended.

    Raises what the first look raises; after that a server that goes away is waited for.
    """
    lines = Lines()
    batch = api.batch(batch_id)
    lines.say(batch["status"], progress(batch))
    while batch["status"] not in TERMINAL:
        time.sleep(LOOK_S)
        try:
            batch = api.batch(batch_id)
            lines.say(batch["status"], progress(batch))
        except Refused as error:
            lines.say("away", f"{error.message}; looking again")
    return batch


def finish(batch: Json) -> None:
    """Say how an ended batch ended; exit status 1 unless it completed."""
    counts, usage = batch["request_counts"], batch.get("usage") or {}
    say(
        f"{batch['id']} {batch['status']}: {counts['completed']:,} of {counts['total']:,} rows answered,"
        f" {counts['failed']:,} failed, {usage.get('output_tokens', 0):,} tokens generated"
    )
    for error in (batch.get("errors") or {}).get("data") or ():
        place = f"line {error['line']}: " if error.get("line") else ""
        say(f"  {place}{error['message']} ({error['code']})")
    if batch["status"] != BatchStatus.COMPLETED:
        raise typer.Exit(1)


def progress(batch: Json) -> str:
    """``batch_1 in_progress 120/512 rows, 35.2 rows/s, 11 s left``, as far as the server knows it."""
    counts, known = batch["request_counts"], batch.get("raybatch") or {}
    words = [
        f"{batch['id']} {batch['status']} {counts['completed'] + counts['failed']:,}/{counts['total']:,} rows"
    ]
    if batch["status"] == BatchStatus.IN_PROGRESS:
        words.append(f"{known.get('rows_per_s') or 0:,.1f} rows/s")
        words += [] if known.get("eta_s") is None else [f"{known['eta_s']:,.0f} s left"]
    return ", ".join(words)


class Lines:
    """Says a line when the topic changes, and now and then in between."""

    def __init__(self) -> None:
        self._topic = ""
        self._said_mono = 0.0

    def say(self, topic: str, line: str) -> None:
        now_mono = time.monotonic()
        if topic != self._topic or now_mono - self._said_mono >= LINE_EVERY_S:
            self._topic, self._said_mono = topic, now_mono
            say(line)


def say(line: str) -> None:
    """To stderr, without control characters: what a file contains must not drive a terminal."""
    typer.echo(
        "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line), err=True
    )


def command(main: Callable[..., None]) -> None:
    """Run ``main`` as a command line. An error raised on purpose is one line on stderr and exit status 1."""
    signal.signal(signal.SIGTERM, _end)
    try:
        typer.run(main)
    except RaybatchError as error:
        say(f"raybatch: {error.message}")
        sys.exit(1)


def _end(*_: object) -> None:
    """`ray job stop`: what is half done is cleaned up on the way out."""
    sys.exit(TERMINATED_EXIT)
