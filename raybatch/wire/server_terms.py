"""What the rules of request bodies need to know of the server that applies them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: kind and text of a grammar, to why no engine could follow it
Compile = Callable[[str, str], str | None]


def _any_grammar(kind: str, text: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class ServerTerms:
    media_domains: frozenset[str] = frozenset()  #: hosts from which engines may load media
    compile: Compile = _any_grammar
