"""Requests as an engine runs them: looked up by position in the index, read from the immutable upload."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Final

from raybatch.actors.held_lease import RequestRow
from raybatch.config import Home
from raybatch.core.commands import Lease
from raybatch.core.rows import offsets_of
from raybatch.storage.blobs import BlobStore
from raybatch.storage.request_index import IndexEntry, IndexReader, read_lines
from raybatch.wire.request_line import answer_limit, request_body

OPEN_INDEXES_MAX: Final = 8


class RequestRows:
    """Not for use by several threads at once."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._blobs = BlobStore(home.files)
        self._readers: OrderedDict[Path, IndexReader] = OrderedDict()

    def read(self, lease: Lease) -> list[RequestRow]:
        """The rows the lease names, in dispatch order. Raises OSError or Corrupt when they are gone."""
        entries = self.entries(lease)
        runnable = [entry for _, entry in entries if entry.error_code is None]
        lines = iter(read_lines(self._blobs.path(lease.input_file_id), runnable))
        return [
            RequestRow(
                position=position,
                index=entry.index,
                custom_id=entry.custom_id,
                body=b"" if entry.error_code is not None else request_body(next(lines)),
                refusal=_refusal(entry),
                limit_tokens=answer_limit(entry.expected_tokens, entry.length),
            )
            for position, entry in entries
        ]

    def entries(self, lease: Lease) -> list[tuple[int, IndexEntry]]:
        """Position and index entry of each row of the lease."""
        run = self._reader(lease.batch_id).rows(lease.first, lease.count)
        return [(lease.first + offset, run[offset]) for offset in offsets_of(lease.rows)]

    def _reader(self, batch_id: str) -> IndexReader:
        path = self._home.index_path(batch_id)
        if path not in self._readers:
            self._readers[path] = IndexReader(path)
            if len(self._readers) > OPEN_INDEXES_MAX:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(path)
        return self._readers[path]


def _refusal(entry: IndexEntry) -> tuple[str, str, int] | None:
    if entry.error_code is None:
        return None
    return entry.error_code, entry.error_message or "", entry.line_number
