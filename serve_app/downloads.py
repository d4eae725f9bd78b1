"""A file that does not change, as HTTP knows it (RFC 9110): whole or a range of it, unless the client has it.

Refuses several ranges in one answer: such a request gets the whole file, as it may. A range is never
compressed, so that ranges add up to the bytes of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass

from fastapi import Request
from starlette.responses import JSONResponse, Response

from raybatch.wire.envelope import envelope
from serve_app.openapi_schemas import Answers, bytes_answer, in_header, refused
from serve_app.streams import stream, takes_gzip

_ONE_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,30})\s*-\s*([0-9]{0,30})\s*", re.IGNORECASE)

RANGE_HEADERS = [
    in_header("Range", "one range: bytes=a-b, bytes=a- or bytes=-n; anything else gets the whole file"),
    in_header("If-Range", "the range only if this is the ETag, else the whole file"),
    in_header("If-None-Match", "nothing if one of these is the ETag"),
    in_header("Accept-Encoding", "gzip compresses whole files, of which no Content-Length is told then"),
]
_TAGGED = {"ETag": "names these very bytes", "Accept-Ranges": "bytes", "Vary": "Accept-Encoding"}
_PART = _TAGGED | {"Content-Range": "which bytes of how many"}
CONTENT_ANSWERS: Answers = {
    200: bytes_answer("application/octet-stream", headers=_TAGGED),
    206: bytes_answer("application/octet-stream", headers=_PART),
    304: bytes_answer(headers=_TAGGED),
    **refused(404, 416, 503),
}

_ETAG = re.compile(r'(?:W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class Download:
    tag: str  #: names these very bytes and no others
    size_bytes: int
    pieces: Callable[[int, int], Generator[bytes]]  #: the bytes from a start to a stop (exclusive)
    media_type: str = "application/octet-stream"


async def answer(request: Request, file: Download) -> Response:
    """200, 206, 304 or 416."""
    ranged = request.headers.get("range") if request.method == "GET" else None
    gzip = ranged is None and takes_gzip(request, file.size_bytes)
    etag = f'"{file.tag}-gzip"' if gzip else f'"{file.tag}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Vary": "Accept-Encoding"}
    if _has_it(request, etag):
        return Response(status_code=304, headers=headers)
    start, stop, status = 0, file.size_bytes, 200
    if ranged is not None and request.headers.get("if-range", etag).strip() == etag:
        found = _one_range(ranged, file.size_bytes)
        if found is not None and found.start == found.stop:
            return _nothing_there(ranged, file.size_bytes)
        if found is not None:
            start, stop, status = found.start, found.stop, 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size_bytes}"
    return await stream(
        file.pieces(start, stop),
        media_type=file.media_type,
        status=status,
        size_bytes=stop - start,
        gzip=gzip,
        headers=headers,
    )


def _has_it(request: Request, etag: str) -> bool:
    wanted = request.headers.get("if-none-match")
    return wanted is not None and (wanted.strip() == "*" or etag in _ETAG.findall(wanted))


def _one_range(text: str, size_bytes: int) -> range | None:
    """The bytes meant, none when none of them exists; None for what is not one range, which means nothing."""
    match = _ONE_RANGE.fullmatch(text.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if not match[1]:
        return range(max(0, size_bytes - int(match[2])), size_bytes)
    first, last = int(match[1]), int(match[2] or size_bytes)
    if match[2] and last < first:
        return None
    return range(min(first, size_bytes), min(last + 1, size_bytes))


def _nothing_there(ranged: str, size_bytes: int) -> Response:
    message = f"The range '{ranged[:200]}' has none of this file's {size_bytes:,} bytes."
    refusal = envelope(message, "invalid_request_error", param="Range", code="range_not_satisfiable")
    return JSONResponse(refusal, 416, {"Content-Range": f"bytes */{size_bytes}", "Accept-Ranges": "bytes"})
