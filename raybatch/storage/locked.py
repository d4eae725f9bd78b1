"""A lock on an open file or directory that ends with its holder, whether that lets go or dies."""

from __future__ import annotations

import fcntl


def locked(descriptor: int) -> bool:
    """Whether nobody else holds it, in this process or another; closing the descriptor lets go."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
