from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybatch.errors import Corrupt
from raybatch.storage import request_index as module
from raybatch.storage.request_index import IndexEntry, IndexReader, IndexWriter, read_lines


def entry(row: int, custom_id: str | None = "same") -> IndexEntry:
    error = ("invalid_url", "no", "url") if row % 3 == 0 else (None, None, None)
    return IndexEntry(row, row * 100, 99, row + 1, custom_id, row % 50, *error)


def write(path: Path, entries: list[IndexEntry]) -> None:
    with IndexWriter(path) as index:
        for one in entries:
            index.add(one)


@pytest.fixture(scope="module")
def long_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "index.parquet"
    write(path, [entry(row, f"id-{row}") for row in range(10_000)])
    return path


@settings(deadline=None)
@given(first=st.integers(0, 11_000), count=st.integers(0, 9_000))
def test_any_run_of_positions_reads_back(long_index: Path, first: int, count: int) -> None:
    expected = [entry(row, f"id-{row}") for row in range(first, min(first + count, 10_000))]
    with IndexReader(long_index) as index:
        assert index.total == 10_000
        assert index.rows(first, count) == expected


def test_sequential_runs_read_each_row_group_once(long_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **kw: (read.append(i), plain(self, i, **kw))[1]
    )
    with IndexReader(long_index) as index:
        for first in range(0, 10_000, 300):
            index.rows(first, 300)
        assert [one.index for one in index] == list(range(10_000))
    assert read[:3] == [0, 1, 2]
    assert len(read) <= 6


@settings(deadline=None)
@given(st.lists(st.none() | st.text(), max_size=20))
def test_any_custom_id_reads_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, custom_ids: list[str | None]
) -> None:
    path = tmp_path_factory.mktemp("index") / "index.parquet"
    write(path, [entry(row, custom_id) for row, custom_id in enumerate(custom_ids)])
    with IndexReader(path) as index:
        assert [one.custom_id for one in index] == custom_ids


def test_huge_custom_ids_end_a_row_group_early(tmp_path: Path) -> None:
    write(tmp_path / "i", [entry(row, "x" * 10**6) for row in range(12)])
    groups = pq.ParquetFile(tmp_path / "i").metadata
    assert max(groups.row_group(group).num_rows for group in range(groups.num_row_groups)) <= 5
    with IndexReader(tmp_path / "i") as index:
        assert index.rows(4, 7) == [entry(row, "x" * 10**6) for row in range(4, 11)]


def test_an_interrupted_index_leaves_the_old_one_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    write(path, [entry(0)])
    with suppress(KeyboardInterrupt), IndexWriter(path) as index:
        for row in range(5_000):
            index.add(entry(row))
        raise KeyboardInterrupt
    assert [one.name for one in tmp_path.iterdir()] == ["index.parquet"]
    with IndexReader(path) as reader:
        assert reader.total == 1


def test_lines_come_in_the_order_asked_for_with_few_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"line {number}".encode() * (1 + number % 3) for number in range(500)]
    lines[250] = b"x" * (2 * module.READ_GAP_BYTES)
    blob = tmp_path / "blob"
    blob.write_bytes(b"\n".join(lines))
    entries = []
    offset = 0
    for number, line in enumerate(lines):
        entries.append(IndexEntry(number, offset, len(line), number + 1, None, 0))
        offset += len(line) + 1
    reads: list[int] = []
    plain = module.os.pread
    monkeypatch.setattr(module.os, "pread", lambda *args: (reads.append(args[1]), plain(*args))[1])
    assert read_lines(blob, entries[::-1]) == lines[::-1]
    assert len(reads) == 1
    without_the_long_one = entries[:250] + entries[251:]
    assert read_lines(blob, without_the_long_one) == lines[:250] + lines[251:]
    assert len(reads) == 3, "a long stretch that nobody asked for is skipped"
    assert read_lines(blob, []) == []


def test_an_upload_shorter_than_its_index_is_reported(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"short")
    with pytest.raises(Corrupt, match="ends at byte 5"):
        read_lines(blob, [IndexEntry(0, 0, 10, 1, None, 0)])
