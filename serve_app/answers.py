"""What every answer has, whoever wrote it: a request id, security headers, an envelope for what broke.

The outermost layer of the app. Refuses to show the inside of a fault: the client gets the request id, the log
the rest. Refuses to pass on an address that is too long, and to send a body to who asked for none.
"""

from __future__ import annotations

import logging
import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raybatch.wire.envelope import envelope

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"
URL_BYTES_MAX = 32 << 10  #: path and query; a cursor of a very large cluster takes some thousand
SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Answers:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_dressed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            elif scope["method"] == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            if (url_bytes := len(scope.get("raw_path") or b"") + len(scope["query_string"])) > URL_BYTES_MAX:
                await _too_long(url_bytes)(scope, receive, send_dressed)
                return
            await self._app(scope, receive, send_dressed)
        except ClientDisconnect:
            logger.info("client left: %s %s, request id %s", scope["method"], scope["path"], request_id)
        except Exception:
            logger.exception("failed: %s %s, request id %s", scope["method"], scope["path"], request_id)
            if started:
                raise  # half a body is out: only a broken connection tells the client
            await broken(request_id)(scope, receive, send_dressed)


def broken(request_id: str) -> JSONResponse:
    """The 500 for a fault of ours."""
    message = (
        "The server had an error while processing your request. "
        f"Its log says more under the request id {request_id}."
    )
    return JSONResponse(envelope(message, "server_error"), 500)


def _too_long(url_bytes: int) -> JSONResponse:
    message = f"The URL's path and query may have {URL_BYTES_MAX:,} bytes; these have {url_bytes:,}."
    return JSONResponse(envelope(message, "invalid_request_error", code="url_too_long"), 414)


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if SANE_REQUEST_ID.fullmatch(given) else f"req_{uuid4().hex}"
