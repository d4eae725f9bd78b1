"""Are the files that the ledger names there, and as they were committed?

At a start, sizes; in depth, every byte and every row's place. It reports and changes nothing: readers of
results check again what they open, so nothing found here is ever served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq

from raybatch.config import Home
from raybatch.core.model import Batch, BatchStatus, File, PartFile
from raybatch.core.rounds import visible_parts
from raybatch.core.state import State
from raybatch.errors import Corrupt
from raybatch.storage.manifest import BatchFiles, Manifest
from raybatch.storage.parts import existing_part, verify_part

PARQUET_MAGIC: Final = b"PAR1"
_FROM_A_COPY: Final = "bring the file back from a copy (`raybatch backup` makes one)"


@dataclass(frozen=True, slots=True)
class Finding:
    batch_id: str | None  #: None for an upload that no batch refers to
    path: str  #: relative to the home
    expected: str
    found: str
    helps: str

    def __str__(self) -> str:
        whose = f" of {self.batch_id}" if self.batch_id else ""
        return f"{self.path}{whose}: expected {self.expected}, found {self.found}; {self.helps}"


@dataclass(frozen=True, slots=True)
class Named:
    """What a ledger names: result parts by batch, and uploads."""

    manifest: Manifest
    uploads: tuple[File, ...]


def named_by(state: State) -> Named:
    batches = []
    for batch in state.batches.values():
        every = tuple(state.parts.get(batch.batch_id, {}).values())
        redrives = state.redrives.get(batch.batch_id, {}).values()
        batches.append(BatchFiles(batch, None, visible_parts(every, redrives, batch.round), every))
    return Named(Manifest(tuple(batches)), tuple(uploads(state.files.values())))


def uploads(files: Iterable[File]) -> Iterator[File]:
    """Those with bytes of their own: output and error files are views of parts."""
    return (file for file in files if file.batch_id is None)


def audit(
    home: Path, manifest: Manifest, deep: bool = False, uploads: Iterable[File] = ()
) -> tuple[Finding, ...]:
    """What is not as it should be, batch by batch. ``deep`` reads every byte of parts and uploads."""
    findings = [finding for files in manifest.batches for finding in _of_batch(home, files, deep)]
    known = {finding.path for finding in findings}
    findings += [
        finding for file in uploads for finding in _of_upload(home, file, deep) if finding.path not in known
    ]
    return tuple(findings)


def _of_batch(home: Path, files: BatchFiles, deep: bool) -> Iterator[Finding]:
    batch = files.batch
    if batch.active:
        yield from _of_input(home, batch)
    every = {part.path: part for part in (*files.parts, *files.earlier)}
    broken = [finding for part in every.values() for finding in _of_part(home, batch, part, deep)]
    yield from broken
    if deep and not broken:
        yield from _of_rows(home, files)


def _of_input(home: Path, batch: Batch) -> Iterator[Finding]:
    """What the rows that are still to run need."""
    helps = f"{_FROM_A_COPY}, or `raybatch cancel {batch.batch_id}` and submit it again"
    upload = f"files/{batch.input_file_id}"
    if batch.status is BatchStatus.VALIDATING:
        return  # intake says what is wrong with the upload, and writes the index
    if not (home / upload).is_file():
        yield Finding(batch.batch_id, upload, "the upload", "nothing", helps)
    index = Home(home).index_path(batch.batch_id)
    found = _index(index)
    if found is not None:
        yield Finding(batch.batch_id, str(index.relative_to(home)), "the batch's index", found, helps)


def _index(path: Path) -> str | None:
    """What is wrong with it. No parser looks at it: a harmed footer can end the process that reads it."""
    try:
        with path.open("rb") as file:
            head = file.read(len(PARQUET_MAGIC))
            file.seek(-min(len(PARQUET_MAGIC), path.stat().st_size), 2)
            tail = file.read()
    except FileNotFoundError:
        return "nothing"
    return None if head == tail == PARQUET_MAGIC else "a file that is cut short or overwritten"


def _of_part(home: Path, batch: Batch, part: PartFile, deep: bool) -> Iterator[Finding]:
    try:
        (verify_part if deep else existing_part)(home, part)
    except Corrupt as corrupt:
        expected = f"{part.rows} rows in {part.size_bytes} bytes with {part.checksum}"
        again = "" if batch.active else f", or submit the {part.rows} requests again"
        yield Finding(batch.batch_id, part.path, expected, corrupt.message, f"{_FROM_A_COPY}{again}")


def _of_rows(home: Path, files: BatchFiles) -> Iterator[Finding]:
    """Every position once, and as many as the batch counts. Eight bytes a row in memory."""
    batch = files.batch
    served = [np.empty(0, np.int64)]
    for part in files.parts:
        positions = pq.read_table(home / part.path, columns=["position"])["position"].to_numpy()
        if len(positions) != part.rows:
            yield _disagrees(batch, part.path, f"{part.rows} rows", f"{len(positions)}")
        served.append(positions[~np.isin(positions, np.array(part.masked, np.int64))])
    positions, times = np.unique(np.concatenate(served), return_counts=True)
    doubled, strangers = int((times > 1).sum()), int((positions >= batch.total).sum())
    if doubled or strangers or len(positions) != batch.finished_rows:
        expected = f"{batch.finished_rows} of {batch.total} rows, each once"
        found = f"{len(positions)} different rows, {doubled} more than once, {strangers} that do not exist"
        yield _disagrees(batch, f"results/batch_id={batch.batch_id}", expected, found)


def _disagrees(batch: Batch, path: str, expected: str, found: str) -> Finding:
    return Finding(batch.batch_id, path, expected, found, "the ledger and the results disagree: keep both")


def _of_upload(home: Path, file: File, deep: bool) -> Iterator[Finding]:
    path = f"files/{file.file_id}"
    expected = f"{file.size_bytes} bytes"
    try:
        size_bytes = (home / path).stat().st_size
    except FileNotFoundError:
        yield Finding(file.batch_id, path, expected, "nothing", f"{_FROM_A_COPY}, or upload it again")
        return
    if size_bytes != file.size_bytes:
        found = f"{size_bytes} bytes"
    elif deep and file.sha256 is not None and _sha256(home / path) != file.sha256:
        expected, found = f"sha256 {file.sha256}", "other bytes"
    else:
        return
    yield Finding(file.batch_id, path, expected, found, f"{_FROM_A_COPY}, or upload it again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
