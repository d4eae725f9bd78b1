"""Which uploads hold the same questions: a digest of their bytes with the models' names taken out.

Two models are compared on two uploads that name one each, so the bytes themselves never match. Refuses to
know more of JSON than that: other white space or another order of members is another dataset.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

READ_BYTES: Final = 1 << 20
LINE_BYTES_MAX: Final = 16 << 20  #: a longer line is hashed in pieces, and a name at a cut stays in
DIGESTS_KEPT: Final = 1_000
#: as a member's name: inside a text the quotes are escaped
MODEL: Final = re.compile(rb'"model"\s*:\s*"[^"\\]*(?:\\.[^"\\]*)*"')


@lru_cache(maxsize=DIGESTS_KEPT)
def dataset_digest(upload: Path) -> str:
    """SHA-256, in hex. Reads the whole file, once in a process: an upload never changes.

    Raises FileNotFoundError when retention has taken it away.
    """
    digest = hashlib.sha256()
    for lines in _whole_lines(upload):
        digest.update(MODEL.sub(b'"model":""', lines))
    return digest.hexdigest()


def _whole_lines(upload: Path) -> Iterator[bytes]:
    """The file's bytes, cut behind ends of lines; with one at the end, whether the file has it or not."""
    rest = b""
    with upload.open("rb", buffering=0) as file:
        while block := file.read(READ_BYTES):
            lines, end, rest = (rest + block).rpartition(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                lines, rest = lines + end + rest, b""
            yield lines + end
    if rest:
        yield rest + b"\n"
