"""The way from a command or an operator's job to a raybatch: the home, the URL, the key, and what went wrong.

Refuses to retry: who wants to outlive a restart of the server asks again (``looks`` does); OpenAI's client
has rules of its own.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from raybatch import errors
from raybatch.config import ApiSettings, Home
from raybatch.core.model import TERMINAL
from raybatch.errors import OperatorError, RaybatchError, Refused, Unavailable

if TYPE_CHECKING:
    import httpx
    import openai

Json = dict[str, Any]

LOOK_S: Final = 1.0  #: between two looks at a batch that is waited for
CONNECT_MAX_S: Final = 5.0
ANSWER_MAX_S: Final = 120.0  #: between two pieces of an answer
ANY_ADDRESS: Final = ("0.0.0.0", "::")  #: to listen on; whoever connects to it reaches this machine
_KINDS: Final = (errors.BadRequest, errors.Unauthorized, errors.NotFound, errors.Conflict, errors.TooLarge)


class Unreachable(OperatorError):
    """Nothing answers at the URL: not yet, or not any more."""


@dataclass(frozen=True)
class Connection:
    home: Home
    url: str  #: without a slash at its end
    api_key: str | None

    @classmethod
    def find(cls, home: str | None, url: str | None, api_key: str | None) -> Connection:
        """``url`` when given, else where this home's settings say its API listens."""
        found = Home.find(home)
        return cls(found, (url or own_url(found)).rstrip("/"), api_key)

    def batch(self, batch_id: str) -> Json:
        """As ``get``; NotFound when there is no such batch."""
        found: Json = self.get(f"/v1/batches/{batch_id}")
        return found

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answered. Raises Unreachable, Unavailable or the ClientError the server names."""
        return self._json("GET", path, self.api_key, query)

    def post(self, path: str, content: Json | None = None) -> Any:
        """As ``get``; ``content`` goes along as JSON."""
        return self._json("POST", path, self.api_key, {}, content)

    def delete(self, path: str) -> Any:
        """As ``get``."""
        return self._json("DELETE", path, self.api_key, {})

    def admin(self, method: str, path: str, content: Json | None = None) -> Any:
        """As ``get``, with the token that only the owner of the home can read."""
        token_path = self.home.run / "admin_token"
        try:
            token = token_path.read_text().strip()
        except OSError as error:
            raise OperatorError(
                f"cannot read {token_path} ({error.strerror}): run this on the machine and as the user"
                " that ran `raybatch up`, with the same --home"
            ) from None
        return self._json(method, path, token, {}, content)

    @contextmanager
    def download(self, path: str, **query: Any) -> Iterator[Iterator[bytes]]:
        """The answer's bytes, piece by piece. A connection that breaks off raises Unreachable."""
        with (
            self._explained(),
            self._http.stream("GET", path, params=query, headers=_bearer(self.api_key)) as answer,
        ):
            if answer.status_code >= 400:
                raise self._refusal(answer.status_code, answer.read())
            yield answer.iter_bytes()

    def close(self) -> None:
        """The connections that are kept open between two asks."""
        if "_http" in self.__dict__:
            self._http.close()

    @contextmanager
    def stock_client(self) -> Iterator[openai.OpenAI]:
        """OpenAI's own client, its errors turned into ours."""
        import openai

        with openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.api_key or "none",
            http_client=openai.DefaultHttpxClient(trust_env=self._through_proxies),
        ) as client:
            try:
                yield client
            except openai.APIStatusError as error:
                raise self._refusal(error.status_code, error.response.content) from None
            except openai.APIConnectionError as error:
                raise self._unreachable(error.__cause__ or error) from None

    def _json(
        self, method: str, path: str, bearer: str | None, query: Json, content: Json | None = None
    ) -> Any:
        with self._explained():
            answer = self._http.request(method, path, params=query, headers=_bearer(bearer), json=content)
        if answer.status_code >= 400:
            raise self._refusal(answer.status_code, answer.content)
        try:
            return answer.json()
        except ValueError:
            raise OperatorError(f"{self.url} answered {path} without JSON: is it a raybatch?") from None

    @cached_property
    def _http(self) -> httpx.Client:
        import httpx

        return httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(ANSWER_MAX_S, connect=CONNECT_MAX_S),
            headers={} if self._through_proxies else {"Accept-Encoding": "identity"},
            trust_env=self._through_proxies,
            verify=self.url.startswith("https:"),  # loading certificates costs more than a plain call
        )

    @property
    def _through_proxies(self) -> bool:
        host = urlsplit(self.url).hostname or ""
        return not (is_loopback(host) or host in ANY_ADDRESS)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.InvalidURL as error:
            raise OperatorError(
                f"'{self.url}' is not an address such as http://127.0.0.1:8420: {error}"
            ) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise self._unreachable(error) from None
        except httpx.TransportError as error:
            raise Unreachable(f"the connection to {self.url} broke off ({error}): ask again") from None

    def _unreachable(self, cause: BaseException) -> Unreachable:
        return Unreachable(
            f"no raybatch answers at {self.url} ({cause}): start one with `raybatch up`,"
            " or name another with --url or --home"
        )

    def _refusal(self, status: int, content: bytes) -> RaybatchError:
        message = _message(content) or f"{self.url} answered with HTTP status {status}"
        if status == 401 and self.api_key is None:
            message += " Pass the key with --api-key or RAYBATCH_API_KEY."
        if status >= 500 or status == 429:
            return Unavailable(message, retry_after_s=1)
        kind = next((kind for kind in _KINDS if kind.status == status), OperatorError)
        return kind(message)


def looks(connection: Connection, batch_id: str, batch: Json) -> Iterator[Json | str]:
    """The batch again and again until it has ended; a string says why a look failed."""
    while batch["status"] not in TERMINAL:
        time.sleep(LOOK_S)
        try:
            batch = connection.batch(batch_id)
            yield batch
        except (Unreachable, Refused) as error:
            yield error.message


def own_url(home: Home) -> str:
    """Where the API of this home listens, by its settings; by default where there are none yet."""
    api = home.load().api if home.settings_path.exists() else ApiSettings()
    host = "127.0.0.1" if api.host in ANY_ADDRESS else api.host
    return f"http://[{host}]:{api.port}" if ":" in host else f"http://{host}:{api.port}"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _message(content: bytes) -> str | None:
    """The message of OpenAI's error envelope."""
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return None
