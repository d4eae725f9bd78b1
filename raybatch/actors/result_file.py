"""A batch's results as a file of the asker's: in the format its name says, whole or not at all.

Refuses to read what it writes: the server formats the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final

from raybatch.errors import OperatorError
from raybatch.storage.atomic import atomic_file

FORMATS: Final = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}


class Kind(StrEnum):
    OUTPUT = "output"
    ERROR = "error"
    ALL = "all"


def result_format(out: Path) -> str:
    """Raises OperatorError when the name's ending says no format."""
    shape = FORMATS.get(out.suffix.lower())
    if shape is None:
        raise OperatorError(f"'{out}' does not say which format: end it in one of {', '.join(FORMATS)}")
    return shape


def write_whole(out: Path, pieces: Iterable[bytes]) -> int:
    """The bytes written. When the pieces break off, whatever had the name ``out`` stays as it was."""
    try:
        with atomic_file(out) as temporary, temporary.open("xb") as file:
            file.writelines(pieces)
            written_bytes = file.tell()
    except OSError as error:
        raise OperatorError(f"cannot write {out}: {error.strerror or error}") from None
    return written_bytes
