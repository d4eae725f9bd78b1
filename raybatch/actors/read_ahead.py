"""The intake of an upload that is still arriving, so that its batch runs soon after it is asked for.

It guesses what the batch will ask: the endpoint of the first line, checked as the settings say. Nothing
depends on it: whatever the batch asks instead, and wherever this breaks off, intake reads the file itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec

from raybatch.actors.intake import READ_BYTES, IntakeReport, IntakeTerms, take_in_blocks
from raybatch.config import Home
from raybatch.crash_points import crash_point
from raybatch.storage.atomic import publish
from raybatch.wire.body_rules import ENDPOINTS

LARGE_BYTES: Final = 4 << 20  #: of a smaller upload the intake takes a few hundredths of a second
LOOK_S: Final = 0.01  #: between two looks at a file that has not grown
SILENCE_MAX_S: Final = 10.0  #: whoever sends as slowly waits for more than an intake


@dataclass(frozen=True, slots=True)
class ReadAhead:
    """An intake done before anybody asked for it."""

    terms: IntakeTerms
    size_bytes: int
    index_path: Path  #: absent when the report has errors
    report: IntakeReport

    def claim(self, terms: IntakeTerms, blob: Path, index_path: Path) -> IntakeReport | None:
        """Its report, and its index durable at ``index_path``; None when it answers another question."""
        if self.terms != terms or self.size_bytes != blob.stat().st_size:
            return None
        if not self.report.errors:
            try:
                publish(self.index_path, index_path)
            except FileNotFoundError:  # claimed before, by a chore that died, or swept
                return None
        return self.report


def read_ahead(home: Home, file_id: str, arriving: Path) -> ReadAhead | None:
    """Follow ``arriving`` until it has become the file; None when it does not, or no batch is in sight.

    What it leaves behind unclaimed, the sweep removes.
    """
    final = home.files / file_id
    try:
        with _opened(arriving, final) as file:
            endpoint = _endpoint(file.read(READ_BYTES))
            if endpoint is None:
                return None
            file.seek(0)
            terms = IntakeTerms.of(home.load(), endpoint)
            index_path = home.scratch / f"{file_id}.parquet"
            report = take_in_blocks(_followed(file, arriving, final), index_path, terms)
            if not os.path.samestat(os.fstat(file.fileno()), final.stat()):
                return None  # it was given up, and sent again otherwise
            crash_point("ahead.indexed")
            return ReadAhead(terms, file.tell(), index_path, report)
    except (FileNotFoundError, _GivenUpError):
        return None


def _opened(arriving: Path, final: Path) -> FileIO:
    """It may have its name by now."""
    try:
        return FileIO(arriving)
    except FileNotFoundError:
        return FileIO(final)


class _GivenUpError(Exception):
    """The file stopped growing, or is not to be."""


def _followed(file: FileIO, arriving: Path, final: Path) -> Iterator[bytes]:
    """All that is, and will be, written to the file."""
    heard_mono = time.monotonic()
    while True:
        whole = final.exists()  # asked before reading: afterwards nothing more is written
        if block := file.read(READ_BYTES):
            heard_mono = time.monotonic()
            yield block
        elif whole:
            return
        else:
            gone = not arriving.exists() and not final.exists()
            if gone or time.monotonic() - heard_mono > SILENCE_MAX_S:
                raise _GivenUpError
            time.sleep(LOOK_S)


class _Addressed(msgspec.Struct):
    url: str


def _endpoint(begin: bytes) -> str | None:
    """Of the first line, if a batch can have it."""
    try:
        url = msgspec.json.decode(begin.lstrip().split(b"\n", 1)[0], type=_Addressed).url
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return url if url in ENDPOINTS else None
