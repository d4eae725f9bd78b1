"""Many small result files become few: at most about 64 for a batch, however many parts its engines wrote.

Refuses to touch the manifest and to delete: the caller commits the new file in the place of the old ones and
removes those afterwards, so that a crash at any moment leaves every row exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from raybatch.core.model import PartFile
from raybatch.storage.merge import merged_batches
from raybatch.storage.parts import ROW_GROUP_BYTES_MAX, ROW_GROUP_ROWS_MAX, SCHEMA, write_batches

FILES_MAX = 64  #: of one batch once ``plan`` has nothing left to say, and of one compaction


def plan(parts: Sequence[PartFile], fan_in: int = 16) -> tuple[PartFile, ...] | None:
    """The next files to compact into one, or None: those of the lowest level that has ``fan_in`` of them.

    A row is thus rewritten once a level. When even so too many files remain, the smallest ones go together.
    """
    for level in sorted({part.level for part in parts}):
        group = [part for part in parts if part.level == level]
        if len(group) >= fan_in:
            return tuple(group[:FILES_MAX])
    if len(parts) > FILES_MAX:
        return tuple(sorted(parts, key=lambda part: part.size_bytes)[:fan_in])
    return None


def compact(home: Path, batch_id: str, new_part_id: str, parts: Sequence[PartFile]) -> PartFile:
    """Write the served rows of ``parts`` as one file, a level above theirs; masked rows are gone from it.

    Running it again replaces the file with the same rows. Raises Corrupt when a source is damaged.
    """
    rows = merged_batches(home, parts, SCHEMA.names)
    level = 1 + max(part.level for part in parts)
    return write_batches(home, batch_id, new_part_id, _row_groups(rows), level=level)


def _row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Gather batches until the next one would make the row group too long or too large."""
    gathered: list[pa.RecordBatch] = []
    rows = size_bytes = 0
    for batch in batches:
        too_long = rows + batch.num_rows > ROW_GROUP_ROWS_MAX
        too_large = size_bytes + batch.nbytes > ROW_GROUP_BYTES_MAX
        if gathered and (too_long or too_large):
            yield pa.concat_batches(gathered)
            gathered, rows, size_bytes = [], 0, 0
        gathered.append(batch)
        rows += batch.num_rows
        size_bytes += batch.nbytes
    if gathered:
        yield pa.concat_batches(gathered)
