"""Bytes that no ledger row names: parts of refused reports, uploads cut off, indexes of failed batches.

Only old ones are removed. A young file may be on its way to being remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from raybatch.actors.reads import Remembered
from raybatch.config import Home
from raybatch.storage import parts
from raybatch.storage.blobs import BlobStore

ORPHAN_AGE_S: Final = 24 * 3600.0
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


def sweep(home: Home, wanted: Kept, now: float) -> list[str]:
    """Remove orphans older than a day; answer the result files that went."""
    written_before = now - ORPHAN_AGE_S
    BlobStore(home.files).sweep(lambda file_id: file_id in wanted.file_ids, written_before=written_before)
    for path in (home.root / "batches").iterdir():
        batch_id = path.name.removesuffix(INDEX_SUFFIX)
        if batch_id not in wanted.part_paths and path.stat().st_mtime < written_before:
            path.unlink(missing_ok=True)
    removed: list[str] = []
    for folder in (home.root / "results").glob("batch_id=*"):
        batch_id = folder.name.removeprefix("batch_id=")
        keep = wanted.part_paths.get(batch_id, frozenset())
        removed += parts.sweep(home.root, batch_id, keep, written_before=written_before)
    return removed
