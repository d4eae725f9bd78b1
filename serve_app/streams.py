"""Answers longer than memory should hold: pieces read in threads, one at a time, as the client takes them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from pathlib import Path

from starlette.concurrency import iterate_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serve_app.threads import in_thread

PIECE_BYTES = 1 << 20


class PiecesResponse(StreamingResponse):
    """Streams ``pieces`` and closes them however the answer ends: a client that leaves holds no file open."""

    def __init__(
        self, pieces: Iterator[bytes], first: Iterable[bytes], media_type: str, headers: dict[str, str]
    ) -> None:
        super().__init__(iterate_in_threadpool(chain(first, pieces)), media_type=media_type, headers=headers)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if isinstance(self._pieces, Generator):
                self._pieces.close()


async def stream(
    pieces: Iterator[bytes], *, media_type: str, filename: str | None = None, size_bytes: int | None = None
) -> PiecesResponse:
    """Reads the first piece before it answers: a missing or damaged file is an error, not a torn body.

    ``size_bytes``: of all pieces, where it is known; a body that falls short of it breaks the connection.
    """
    first = await in_thread(lambda: next(pieces, None))
    headers = {}
    if size_bytes is not None:
        headers["Content-Length"] = str(size_bytes)
    if filename is not None:
        headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    return PiecesResponse(pieces, () if first is None else (first,), media_type, headers)


def vanishing(path: Path) -> Iterator[bytes]:
    """The bytes of a file that loses its name at once, so that nothing is left whoever stops reading."""
    with path.open("rb", buffering=0) as file:
        path.unlink()
        while piece := file.read(PIECE_BYTES):
            yield piece
