"""Which files count, as the ledger says: readers of results are handed this and never list a directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raybatch.core.model import Batch, LogEntry, PartFile


@dataclass(frozen=True, slots=True)
class BatchFiles:
    """One batch and its files."""

    batch: Batch
    blob: Path | None  #: the uploaded JSONL, absolute or relative to the home; None once it is gone
    parts: tuple[PartFile, ...]  #: as readers of its newest round see them
    earlier: tuple[PartFile, ...] = ()  #: of all rounds with nothing hidden, when there was more than one


@dataclass(frozen=True, slots=True)
class Manifest:
    batches: tuple[BatchFiles, ...]
    log: tuple[LogEntry, ...] = ()
