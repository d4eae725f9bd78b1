from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raybatch.core.model import ResultRow
from raybatch.errors import Corrupt
from raybatch.storage.merge import merged_batches
from raybatch.storage.parts import (
    ROW_GROUP_ROWS_MAX,
    SCHEMA,
    orphans,
    part_path,
    remove,
    verify_part,
    write_part,
)

ROW = ResultRow(
    position=7,
    index=3,
    custom_id="req-3",
    status_code=200,
    error_code=None,
    error_message=None,
    model="m",
    text="four",
    finish_reason="stop",
    prompt_tokens=5,
    completion_tokens=2,
    cached_tokens=1,
    line=b'{"custom_id":"req-3"}',
    attempt=1,
    engine_id="engine-1",
    started_at=1_700_000_000.25,
    finished_at=1_700_000_001.5,
)


def rows(count: int) -> list[ResultRow]:
    return [replace(ROW, index=i, position=i, custom_id=f"req-{i}") for i in range(count)]


def read(home: Path, part) -> list[dict]:
    return [row for batch in merged_batches(home, [part], SCHEMA.names) for row in batch.to_pylist()]


def test_a_part_holds_its_rows_sorted_by_index(tmp_path):
    part = write_part(tmp_path, "batch_1", "part_1", [replace(ROW, index=9), ROW])

    assert part.path == "results/batch_id=batch_1/part_1.parquet"
    assert (part.rows, part.level, part.masked) == (2, 0, ())
    assert part.size_bytes == (tmp_path / part.path).stat().st_size
    assert [row["index"] for row in read(tmp_path, part)] == [3, 9]
    verify_part(tmp_path, part)


def test_a_row_comes_back_as_it_was_written(tmp_path):
    (found,) = read(tmp_path, write_part(tmp_path, "batch_1", "part_1", [ROW]))

    started_at, finished_at = found.pop("started_at"), found.pop("finished_at")
    assert (started_at.timestamp(), finished_at.timestamp()) == (ROW.started_at, ROW.finished_at)
    assert found.pop("latency_ms") == 1_250
    assert found.pop("line").encode() == ROW.line
    assert found == {name: getattr(ROW, name) for name in found}


def test_half_a_surrogate_pair_in_a_text_does_not_cost_the_part(tmp_path):
    naughty = replace(ROW, custom_id="a\ud800", line=b'{"custom_id":"a\\ud800"}')

    (found,) = read(tmp_path, write_part(tmp_path, "batch_1", "part_1", [naughty]))

    assert found["custom_id"] == "a?"
    assert found["line"].encode() == naughty.line


@pytest.mark.parametrize(
    "refused",
    [[ROW, replace(ROW, position=8)], [replace(ROW, line=b"\xff")]],
    ids=["an index that comes twice", "a line that is not UTF-8"],
)
def test_what_cannot_be_served_is_not_written(tmp_path, refused):
    with pytest.raises(ValueError, match=r"twice|utf8"):
        write_part(tmp_path, "batch_1", "part_1", refused)

    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_row_groups_are_bounded_in_rows_and_in_bytes(tmp_path):
    many = write_part(tmp_path, "batch_1", "many", rows(ROW_GROUP_ROWS_MAX + 1))
    large = write_part(tmp_path, "batch_1", "large", [replace(row, line=b"x" * (9 << 20)) for row in rows(3)])

    assert _row_group_rows(tmp_path / many.path) == [ROW_GROUP_ROWS_MAX, 1]
    assert _row_group_rows(tmp_path / large.path) == [1, 1, 1]


def _row_group_rows(path: Path) -> list[int]:
    footer = pq.read_metadata(path)
    return [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]


def test_the_file_names_its_batch_and_keeps_no_statistics_of_texts(tmp_path):
    part = write_part(tmp_path, "batch_1", "part_1", [ROW])

    footer = pq.read_metadata(tmp_path / part.path)
    names = {key: value for key, value in footer.metadata.items() if key.startswith(b"raybatch.")}
    assert names == {b"raybatch.batch_id": b"batch_1", b"raybatch.part_id": b"part_1"}
    chunks = [footer.row_group(0).column(i) for i in range(footer.num_columns)]
    with_statistics = {chunk.path_in_schema for chunk in chunks if chunk.is_stats_set}
    assert "index" in with_statistics
    assert not with_statistics & {"line", "text", "custom_id", "error_message"}


def test_a_flipped_bit_anywhere_is_found_and_never_served(tmp_path):
    part = write_part(tmp_path, "batch_1", "part_1", rows(20))
    path = tmp_path / part.path
    sound = path.read_bytes()
    for offset in {*range(0, len(sound), 17), *range(len(sound) - 64, len(sound))}:
        path.write_bytes(sound[:offset] + bytes([sound[offset] ^ 1 << offset % 8]) + sound[offset + 1 :])
        with pytest.raises(Corrupt, match=r"part_1\.parquet.*expected sha256:.*found sha256:"):
            verify_part(tmp_path, part)
        with pytest.raises(Corrupt, match=r"part_1\.parquet"):
            read(tmp_path, part)


def test_a_missing_or_shortened_part_is_named_with_what_was_expected(tmp_path):
    part = write_part(tmp_path, "batch_1", "part_1", [ROW])
    path = tmp_path / part.path

    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        Corrupt, match=rf"part_1.* has {part.size_bytes - 1} bytes: expected {part.size_bytes}"
    ):
        verify_part(tmp_path, part)
    remove(tmp_path, part)
    with pytest.raises(Corrupt, match=r"part_1.* is missing"):
        verify_part(tmp_path, part)
    remove(tmp_path, part)


def test_orphans_are_only_what_the_manifest_leaves_out(tmp_path):
    kept = write_part(tmp_path, "batch_1", "kept", [ROW])
    orphan = write_part(tmp_path, "batch_1", "orphan", [ROW])
    write_part(tmp_path, "batch_2", "other", [ROW])
    unfinished = (tmp_path / part_path("batch_1", "x")).with_name(".tmp-123")
    unfinished.touch()

    found = orphans(tmp_path, "batch_1", {kept.path}, before=time.time() + 60)

    assert found == [unfinished, tmp_path / orphan.path]
    assert orphans(tmp_path, "batch_1", {kept.path}, before=time.time() - 60) == []
    assert orphans(tmp_path, "batch_without_results", set(), before=time.time() + 60) == []
