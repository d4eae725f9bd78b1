"""How many inputs a request for embeddings holds: what a limit on them counts."""

from __future__ import annotations

from typing import Any, Final

import msgspec

EMBEDDINGS: Final = "/v1/embeddings"


class _Body(msgspec.Struct):
    input: Any = None


class _Line(msgspec.Struct):
    body: _Body


_DECODER: Final = msgspec.json.Decoder(_Line)


def embedding_inputs(line: bytes) -> int:
    """``line``: a request that was found good. A text is one input, and so is an array of token ids."""
    found = _DECODER.decode(line).body.input
    if not isinstance(found, list) or not found:
        return 1
    return 1 if isinstance(found[0], int) else len(found)
