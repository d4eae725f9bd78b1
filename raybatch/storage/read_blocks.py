"""The bytes of a file, a block at a time."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Final

READ_BYTES: Final = 1 << 20


def read_blocks(
    path: Path, start: int = 0, stop: int | None = None, read_bytes: int = READ_BYTES
) -> Generator[bytes]:
    """From ``start`` to ``stop`` (excluded, default: the end). Raises FileNotFoundError at its first step."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        left = None if stop is None else stop - start
        while left is None or left > 0:
            block = file.read(read_bytes if left is None else min(read_bytes, left))
            if not block:
                return
            left = None if left is None else left - len(block)
            yield block
