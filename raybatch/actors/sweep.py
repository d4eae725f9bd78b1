"""Bytes that no ledger row names: parts of refused reports, uploads cut off, indexes of failed batches.

Only old ones are removed. A young file may be on its way to being remembered. Large uploads say by themselves
when their time is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from raybatch.actors.reads import Remembered
from raybatch.config import Home
from raybatch.storage import parts
from raybatch.storage.atomic import TEMPORARY_PREFIX, written_before
from raybatch.storage.blobs import BlobStore
from raybatch.storage.uploads import UploadStore

ORPHAN_AGE_S: Final = 24 * 3600.0
RETENTION_LOOK_S: Final = 300.0
CLOCK_STEADY_S: Final = 3600.0  #: a wall clock that was just set may be wrong by years: nothing expires yet
CLOCK_DRIFT_MAX_S: Final = 60.0  #: between two looks; more is a jump
INDEX_SUFFIX: Final = ".index.parquet"


@dataclass(frozen=True, slots=True)
class Kept:
    """What the ledger names, as of one moment."""

    file_ids: frozenset[str]
    part_paths: dict[str, frozenset[str]]  #: by batch id


def kept(known: Remembered) -> Kept:
    wanted = {batch.input_file_id for batch in known.batches.values()}
    return Kept(
        file_ids=frozenset(wanted | known.files.keys()),
        part_paths={
            batch_id: frozenset(part.path for part in known.parts.get(batch_id, {}).values())
            for batch_id in known.batches
        },
    )


def lost_its_ledger(home: Home, known: Remembered) -> bool:
    """A home with results and no batch: rather a ledger that is gone than results that nobody wants."""
    return not known.batches and next(_result_folders(home), None) is not None


def sweep(home: Home, wanted: Kept, now: float) -> list[Path]:
    """Remove the orphans; answer what went."""
    removed = list(orphans(home, wanted, now))
    sweep_uploads(home, now)
    for path in removed:
        path.unlink(missing_ok=True)
    for folder in _result_folders(home):
        if _batch_of(folder) not in wanted.part_paths:
            with suppress(OSError):  # it is not empty: what it holds is young
                folder.rmdir()
    return removed


def sweep_uploads(home: Home, now: float) -> None:
    """Remove the large uploads whose time is over, with their parts."""
    uploads = UploadStore(home.uploads)
    for folder in uploads.over(now):
        uploads.remove(folder)


def orphans(home: Home, wanted: Kept, now: float) -> Iterator[Path]:
    """Files older than a day that belong to nobody, and those of large uploads whose time is over."""
    before = now - ORPHAN_AGE_S
    for folder in UploadStore(home.uploads).over(now):
        yield from (path for path in folder.rglob("*") if path.is_file())
    yield from BlobStore(home.files).orphans(lambda file_id: file_id in wanted.file_ids, before=before)
    for path in (home.root / "batches").iterdir():
        batch_id = path.name.removesuffix(INDEX_SUFFIX)
        if batch_id not in wanted.part_paths and written_before(path, before):
            yield path
    for folder in _result_folders(home):
        batch_id = _batch_of(folder)
        keep = wanted.part_paths.get(batch_id, frozenset())
        yield from parts.orphans(home.root, batch_id, keep, before=before)
    for path in home.scratch.iterdir():  # only ours: other libraries keep sockets and caches there
        ours = path.suffix == ".parquet" or path.name.startswith(TEMPORARY_PREFIX)
        if ours and written_before(path, before):
            yield path


@dataclass(slots=True)
class SteadyClock:
    """For how long the wall clock has gone as fast as the monotonic one, as far as anyone looked."""

    _since_mono: float | None = None
    _offset_s: float = field(default=0.0)

    def steady_s(self, wall: float, mono: float) -> float:
        offset_s = wall - mono
        if self._since_mono is None or abs(offset_s - self._offset_s) > CLOCK_DRIFT_MAX_S:
            self._since_mono = mono
        self._offset_s = offset_s
        return mono - self._since_mono


def _result_folders(home: Home) -> Iterator[Path]:
    return (home.root / "results").glob("batch_id=*")


def _batch_of(folder: Path) -> str:
    return folder.name.removeprefix("batch_id=")
