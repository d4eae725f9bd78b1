"""Many small result files become few, however many parts the engines wrote.

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
