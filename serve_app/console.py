"""The web console's own files, at ``/`` and under ``/console/``: read once, served from memory.

They hold nothing secret and are the same for everybody, so they are answered before the guard asks for a
key: the page in the browser needs them to ask its user for one. Refuses to know anything else: whatever the
console shows it gets from the API as any client does, through the guard.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

DIRECTORY: Final = Path(__file__).parent / "console"
FRONT_PAGE: Final = "index.html"
MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: nothing inline, nothing from elsewhere; ``blob:`` downloads are links and need no leave
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)


class Console:
    """The layer that answers GET and HEAD of the console's paths and passes on everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        file = (
            _file(scope["path"]) if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else None
        )
        if file is None:
            await self._app(scope, receive, send)
            return
        await file.answer(Headers(scope=scope))(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str

    def answer(self, headers: Headers) -> Response:
        """A copy may be kept, and is asked about each time: an upgrade shows at once."""
        told = {
            "ETag": self.etag,
            "Cache-Control": "no-cache",
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            "Cross-Origin-Opener-Policy": "same-origin",
        }
        if headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=told)
        return Response(self.content, headers=told, media_type=self.media_type)


def _file(path: str) -> _File | None:
    name = (
        FRONT_PAGE if path == "/" else path.removeprefix("/console/") if path.startswith("/console/") else ""
    )
    return _files().get(name)


@cache
def _files() -> dict[str, _File]:
    """All of them by name: a path of a request is never one of a disk."""
    return {
        path.name: _File(content, MEDIA_TYPES[path.suffix], f'"{sha256(content).hexdigest()[:32]}"')
        for path in sorted(DIRECTORY.iterdir())
        if path.suffix in MEDIA_TYPES
        for content in (path.read_bytes(),)
    }
