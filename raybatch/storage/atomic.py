"""A file is there whole or not at all, also after a power cut.

Refuses to know what the file contains. A crash can leave ``.tmp-`` files behind; the sweeps remove them.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raybatch.crash_points import crash_point

TEMPORARY_PREFIX = ".tmp-"


@contextmanager
def atomic_file(final: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``final``; a clean exit makes it durable under its final name.

    The caller creates and closes the file. When the block raises, the temporary file is removed and an
    older ``final`` stays as it was.
    """
    temporary = temporary_beside(final)
    try:
        yield temporary
        publish(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_beside(final: Path) -> Path:
    """A fresh name in the same directory, so that the rename stays within one filesystem."""
    return final.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"


def publish(temporary: Path, final: Path) -> None:
    """fsync the bytes, rename, fsync the directory: in this order, or a crash could publish a torn file."""
    _fsync(temporary, os.O_RDONLY)
    crash_point("file.synced")
    os.replace(temporary, final)
    crash_point("file.renamed")
    fsync_dir(final.parent)


def written_before(path: Path, instant: float) -> bool:
    """Whether it is there and was last written to before an instant: a younger file may be on its way."""
    try:
        return path.stat().st_mtime < instant
    except FileNotFoundError:  # whoever wrote it has given it its name, or up
        return False


def fsync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
