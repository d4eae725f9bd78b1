"""Answers longer than memory should hold: pieces read in threads, one at a time, as the client takes them."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path

from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serve_app.threads import in_thread

PIECE_BYTES = 1 << 20
GZIP_BYTES_MIN = 1_400  #: a shorter answer travels in one packet anyway
GZIP_LEVEL = 1  #: most of what the best level saves, at five times its speed
_GZIP = 31  #: zlib's word for its container


class PiecesResponse(StreamingResponse):
    """Streams ``pieces`` and closes them however the answer ends: a client that leaves holds no file open."""

    def __init__(
        self,
        pieces: Generator[bytes],
        first: Iterable[bytes],
        status: int,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        body = iterate_in_threadpool(chain(first, pieces))
        super().__init__(body, status_code=status, media_type=media_type, headers=headers)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] == "HEAD":
                start = {"type": "http.response.start", "status": self.status_code}
                await send({**start, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
            else:
                await super().__call__(scope, receive, send)
        finally:
            self._pieces.close()


async def stream(
    pieces: Generator[bytes],
    *,
    media_type: str,
    status: int = 200,
    filename: str | None = None,
    size_bytes: int | None = None,
    gzip: bool = False,
    headers: Mapping[str, str] | None = None,
) -> PiecesResponse:
    """Reads the first piece before it answers: a missing or damaged file is an error, not a torn body.

    ``size_bytes``: of all pieces, where it is known; a body that falls short of it breaks the connection.
    With ``gzip`` the length is not told, for nobody knows it yet.
    """
    named = dict(headers or {})
    if gzip:
        pieces = gzipped(pieces)
        named["Content-Encoding"] = "gzip"
    elif size_bytes is not None:
        named["Content-Length"] = str(size_bytes)
    if filename is not None:
        named["Content-Disposition"] = f'attachment; filename="{filename}"'
    first = await in_thread(lambda: next(pieces, None))
    return PiecesResponse(pieces, () if first is None else (first,), status, media_type, named)


def takes_gzip(request: Request, size_bytes: int | None) -> bool:
    """Whether it is worth it, and the client accepts it: by name or by ``*``, with a weight above zero."""
    if size_bytes is not None and size_bytes < GZIP_BYTES_MIN:
        return False
    weights: dict[str, str] = {}
    for accepted in request.headers.get("accept-encoding", "").lower().split(","):
        coding, _, parameter = accepted.partition(";")
        weights[coding.strip()] = parameter.replace(" ", "")
    weight = weights.get("gzip", weights.get("*", "q=0"))
    return weight.removeprefix("q=").strip("0.") != "" or not weight


def gzipped(pieces: Generator[bytes]) -> Generator[bytes]:
    """The same bytes compressed, in constant memory."""
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP)
    with closing(pieces):
        for piece in pieces:
            if packed := packer.compress(piece):
                yield packed
    yield packer.flush()


def vanishing(path: Path) -> Generator[bytes]:
    """The bytes of a file that loses its name at once, so that nothing is left whoever stops reading."""
    with path.open("rb", buffering=0) as file:
        path.unlink()
        while piece := file.read(PIECE_BYTES):
            yield piece
