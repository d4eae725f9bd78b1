"""Who may come in: the Host a request names, the Origin of the page that sent it, the static key.

A page in the owner's browser can reach this machine's own ports; Host and Origin are how it is told apart
(DNS rebinding, cross-site requests). Refuses to know routes beyond the two it leaves to others: the liveness
probe needs no key, and the admin routes have a token of their own.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from raybatch.config import ApiSettings
from raybatch.errors import OperatorError
from raybatch.wire.envelope import envelope

LIVENESS_PATH = "/health/live"
ADMIN_PREFIX = "/admin/"
SHA256_HEX = re.compile(r"[0-9a-fA-F]{64}")


class Guard:
    """Raises OperatorError for settings that would let strangers in."""

    def __init__(self, app: ASGIApp, api: ApiSettings) -> None:
        if api.key_sha256 is not None and not SHA256_HEX.fullmatch(api.key_sha256):
            raise OperatorError("api.key_sha256 must be the SHA-256 of the key as 64 hexadecimal digits")
        if api.key_sha256 is None and not _is_loopback(api.host):
            raise OperatorError(
                f"api.host is '{api.host}', which other machines can reach, and there is no key: "
                "set api.key_sha256, or api.host=127.0.0.1"
            )
        self._app = app
        self._key_sha256 = None if api.key_sha256 is None else api.key_sha256.lower()
        self._names = {name.lower() for name in ("localhost", api.host, *api.allowed_hosts)}
        self._any_address = not _is_loopback(api.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(scope["path"], Headers(scope=scope))
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            message = (
                f"This server does not answer to the host '{host[:200]}'. Reach it under its own address, "
                "or add the name to the setting api.allowed_hosts."
            )
            return _answer(421, message, code="unknown_host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            message = f"Requests from pages of '{origin[:200]}' are refused: they are not this server's own."
            return _answer(403, message, code="foreign_origin")
        if self._key_sha256 is None or path == LIVENESS_PATH or path.startswith(ADMIN_PREFIX):
            return None
        return _key_refusal(headers.get("authorization", ""), self._key_sha256)

    def _is_ours(self, host: str) -> bool:
        name = _without_port(host)
        if name in self._names or _is_loopback(name):
            return True
        return self._any_address and _is_address(name)  # rebinding needs a name; an address cannot lie


def bearer(authorization: str) -> str:
    """The credential of an ``Authorization: Bearer`` header; empty when there is none."""
    scheme, _, credential = authorization.partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""


def same_secret(given: str, expected: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _key_refusal(authorization: str, key_sha256: str) -> JSONResponse | None:
    key = bearer(authorization)
    if key and same_secret(sha256(key.encode()).hexdigest(), key_sha256):
        return None
    message = (
        "Incorrect API key provided."
        if key
        else "You didn't provide an API key. Send it in the header 'Authorization: Bearer <key>'."
    )
    return _answer(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _answer(status: int, message: str, *, code: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(envelope(message, "invalid_request_error", code=code), status, headers)


def _without_port(host: str) -> str:
    """Of a Host header: ``[::1]:80``, ``[::1]``, ``name:80`` or ``name``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
