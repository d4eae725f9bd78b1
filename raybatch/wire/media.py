"""Media in messages: where they may come from, and how much one request may hold.

An engine that loads a URL for a client is a way into the operator's network, so only ``data:`` URLs pass
unless a domain is allowed. Prepared tensors never pass: they are read with code that trusts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from raybatch.wire.server_terms import ServerTerms

MEDIA_MAX: Final = 64  #: in one request
FRAMES_MAX: Final = 128  #: of a video that is given as single pictures
_URL_KEYS: Final = frozenset(
    {"image_url", "video_url", "audio_url", "input_image", "input_video", "url", "file_url", "image", "video"}
)
_TENSOR_KEYS: Final = frozenset(
    {"prompt_embeds", "image_embeds", "audio_embeds", "video_embeds", "image_pil", "video_pil"}
)


class _TextPart(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text", "input_text", "output_text"]
    text: str


class _PlainMessage(msgspec.Struct):
    content: str | list[_TextPart] | None = None
    output: str | list[_TextPart] | None = None  #: of a function call, in responses


PLAIN_MESSAGES = list[_PlainMessage]  #: messages of text alone, into which nobody need look


def media_problem(value: Any, terms: ServerTerms) -> str | None:
    """What is wrong with the media anywhere in ``value``; text is not looked at."""
    for found, (key, url) in enumerate(_marked(value), start=1):
        if url is None:
            return f"'{key}' carries tensors or prepared embeddings, which are not accepted"
        if found > MEDIA_MAX:
            return f"more than {MEDIA_MAX} media in one request"
        problem = _url_problem(url, terms.media_domains)
        if problem is not None:
            return f"'{key}' {problem}"
    return None


def _marked(value: Any) -> Iterator[tuple[str, str | None]]:
    """Key and URL of everything that is loaded; no URL for what may not be there at all."""
    pending = [value]
    while pending:
        at = pending.pop()
        if isinstance(at, list):
            pending.extend(at)
        elif isinstance(at, dict):
            if at.get("type") in _TENSOR_KEYS:
                yield str(at["type"]), None
            for key, inner in at.items():
                if key in _TENSOR_KEYS and inner is not None:
                    yield key, None
                elif key in _URL_KEYS and isinstance(inner, str):
                    yield key, inner
                elif key not in ("text", "arguments"):
                    pending.append(inner)


def _url_problem(url: str, domains: frozenset[str]) -> str | None:
    if url[:5].lower() == "data:":
        if url[5:15].lower() == "video/jpeg" and url.count(",") > FRAMES_MAX:
            return f"holds {url.count(',')} pictures; a video may have {FRAMES_MAX}"
        return None
    if domains and _host(url) in domains:
        return None
    allowed = f"a data: URL or one of {', '.join(sorted(domains))}" if domains else "a data: URL"
    return f"must be {allowed}; an operator can allow domains with 'vllm.extra.allowed_media_domains'"


def _host(url: str) -> str | None:
    """None for a URL that two parsers could read in two ways."""
    if not url.isascii() or not url.isprintable() or any(mark in url for mark in '\\@ "<>'):
        return None
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        return None
