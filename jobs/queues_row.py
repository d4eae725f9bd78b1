"""A row as the task queues run it: it takes its time and says what it did.

It runs in an environment of its own (requirements/queues.sh), so it knows the standard library alone.
"""

from __future__ import annotations

import os
from typing import Final

#: what a row is pretended to cost: as four tokens of the echo engine at 20 ms each, unless somebody says else
ROW_S: Final = float(os.environ.get("QUEUES_ROW_S", "0.08"))
TASK: Final = "row"


def begin() -> None:
    """Counted as the echo engine counts: a byte for each row that begins, each time it does."""
    _append("QUEUES_TALLY", b".")


def end(number: int) -> None:
    """The row's effect on the world: a line that no queue can take back."""
    _append("QUEUES_EFFECTS", b"%d\n" % number)


def _append(variable: str, words: bytes) -> None:
    path = os.environ.get(variable)
    if path is None:  # nobody counts
        return
    descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        os.write(descriptor, words)
    finally:
        os.close(descriptor)
