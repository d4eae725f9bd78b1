from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybatch.core.chores import COMPACTED_FILES_MAX, next_compaction
from raybatch.core.model import PartFile, ResultRow
from raybatch.errors import Corrupt
from raybatch.storage import merge
from raybatch.storage import parts as parts_module
from raybatch.storage.compaction import compact
from raybatch.storage.merge import merged_batches
from raybatch.storage.parts import SCHEMA, remove, verify_part, write_part


def result_row(index: int, position: int = 0, status_code: int | None = 200) -> ResultRow:
    return ResultRow(
        position=position,
        index=index,
        custom_id=f"req-{index}",
        status_code=status_code,
        error_code=None,
        error_message=None,
        model="m",
        text=None,
        finish_reason=None,
        prompt_tokens=1,
        completion_tokens=1,
        cached_tokens=0,
        line=b'{"custom_id":"req-%d"}' % index,
        attempt=1,
        engine_id="engine-1",
        started_at=1.0,
        finished_at=2.0,
    )


def write_split(home: Path, rows: list[ResultRow], owners: list[int], masked: set[int]) -> list[PartFile]:
    """Write each row into the part that owns it, and mask some positions."""
    parts = []
    for owner in sorted(set(owners)):
        own = [row for row, of in zip(rows, owners, strict=True) if of == owner]
        part = write_part(home, "batch_1", f"part_{owner}", own)
        parts.append(replace(part, masked=tuple(row.position for row in own if row.position in masked)))
    return parts


def read(home: Path, parts: list[PartFile]) -> list[dict]:
    return [row for batch in merged_batches(home, parts, SCHEMA.names) for row in batch.to_pylist()]


def indices(batches) -> list[int]:
    return [index for batch in batches for index in batch["index"].to_pylist()]


@st.composite
def splits(draw):
    """Rows in dispatch order, the part of each, and the positions that were refused."""
    inputs = draw(st.lists(st.integers(0, 10_000), unique=True, max_size=40))
    statuses = draw(st.lists(st.sampled_from([200, 404, None]), min_size=len(inputs), max_size=len(inputs)))
    rows = [
        result_row(index, i, status) for i, (index, status) in enumerate(zip(inputs, statuses, strict=True))
    ]
    owners = draw(st.lists(st.integers(0, 6), min_size=len(rows), max_size=len(rows)))
    return rows, owners, draw(st.sets(st.integers(0, 40)))


@given(
    split=splits(),
    kind=st.sampled_from(["all", "output", "error"]),
    after_index=st.none() | st.integers(-1, 10_001),
    rows_per_batch=st.integers(1, 9),
    row_group_rows=st.integers(1, 9),
)
@settings(deadline=None, max_examples=60)
def test_any_split_merges_back_into_the_kept_rows_in_input_order(
    tmp_path_factory, split, kind, after_index, rows_per_batch, row_group_rows
):
    rows, owners, masked = split
    with patch.object(parts_module, "ROW_GROUP_ROWS_MAX", row_group_rows):
        parts = write_split(home := tmp_path_factory.mktemp("home"), rows, owners, masked)

    batches = list(merged_batches(home, parts, ["index", "line"], kind, after_index, rows_per_batch))

    wanted = [
        row for row in rows if row.position not in masked and (after_index is None or row.index > after_index)
    ]
    if kind != "all":
        wanted = [row for row in wanted if row.completed == (kind == "output")]
    wanted.sort(key=lambda row: row.index)
    assert indices(batches) == [row.index for row in wanted]
    assert [line.encode() for batch in batches for line in batch["line"].to_pylist()] == [
        row.line for row in wanted
    ]
    assert all(0 < batch.num_rows <= rows_per_batch for batch in batches)
    assert all(batch.schema.names == ["index", "line"] for batch in batches)


@given(split=splits())
@settings(deadline=None, max_examples=50)
def test_compaction_keeps_every_served_row_and_drops_the_masked_ones(tmp_path_factory, split):
    rows, owners, masked = split
    parts = write_split(home := tmp_path_factory.mktemp("home"), rows, owners, masked) or [
        write_part(home, "batch_1", "part_0", [])
    ]

    run = compact(home, "batch_1", "run_1", [parts[0], *(replace(part, level=3) for part in parts[1:])])

    verify_part(home, run)
    assert run.masked == ()
    assert run.level == (4 if len(parts) > 1 else 1)
    before, after = read(home, parts), read(home, [run])
    assert after == before
    assert run.rows == len(before)


def test_many_interleaved_parts_of_many_row_groups_merge_in_order(tmp_path):
    order = list(range(20_000))
    random.Random(7).shuffle(order)
    rows = [result_row(index, position) for position, index in enumerate(order)]
    with patch.object(parts_module, "ROW_GROUP_ROWS_MAX", 100):
        parts = write_split(tmp_path, rows, [position % 30 for position in range(20_000)], masked=set())

    assert indices(merged_batches(tmp_path, parts, ["index"])) == list(range(20_000))


def test_files_stay_readable_when_compaction_removes_them_meanwhile(tmp_path):
    parts = write_split(tmp_path, [result_row(i, i) for i in range(10)], [i % 2 for i in range(10)], set())
    batches = merged_batches(tmp_path, parts, ["index"], rows_per_batch=3)
    first = next(batches)
    for part in parts:
        remove(tmp_path, part)

    assert indices([first, *batches]) == list(range(10))


def test_an_abandoned_merge_closes_its_files(tmp_path):
    parts = write_split(tmp_path, [result_row(i, i) for i in range(10)], [i % 5 for i in range(10)], set())
    batches = merged_batches(tmp_path, parts, ["index"])
    next(batches)
    assert len(_open_files(tmp_path)) == 5

    batches.close()

    assert _open_files(tmp_path) == []


def _open_files(under: Path) -> list[str]:
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    return [
        target for link in links if link.is_symlink() and (target := os.readlink(link)).startswith(str(under))
    ]


def test_a_merge_that_meets_a_damaged_file_closes_the_others(tmp_path):
    parts = write_split(tmp_path, [result_row(0, 0), result_row(1, 1)], [0, 1], set())
    remove(tmp_path, parts[1])

    with pytest.raises(Corrupt, match="part_1"):
        next(merged_batches(tmp_path, parts, ["index"]))

    assert _open_files(tmp_path) == []


def part_file(number: int, level: int, size_bytes: int = 1) -> PartFile:
    return PartFile(f"part_{number}", f"results/{number}", size_bytes, 1, "sha256:0", level)


def test_the_lowest_level_with_enough_files_is_compacted_first():
    parts = [part_file(i, level=1) for i in range(20)] + [part_file(i, level=0) for i in range(20, 36)]

    assert next_compaction(parts, 16) == tuple(parts[20:])
    assert next_compaction(parts[:35], 16) == tuple(parts[:20])
    assert next_compaction(parts[10:30], 16) == ()


@given(arrivals=st.integers(1, 40), fan_in=st.integers(2, 16))
@settings(deadline=None, max_examples=30)
def test_files_stay_few_however_many_parts_arrive_and_rows_are_rewritten_seldom(arrivals, fan_in):
    parts: list[PartFile] = []
    rewritten = 0
    for number in range(arrivals * 50):
        parts.append(part_file(number, level=0))
        while group := next_compaction(parts, fan_in):
            merged = PartFile(
                f"run_{number}",
                "",
                sum(part.size_bytes for part in group),
                1,
                "",
                1 + max(p.level for p in group),
            )
            rewritten += merged.size_bytes
            parts = [part for part in parts if part not in group] + [merged]

    assert sum(part.size_bytes for part in parts) == arrivals * 50
    assert len(parts) <= COMPACTED_FILES_MAX
    assert rewritten <= arrivals * 50 * max(part.level for part in parts)


def test_files_that_follow_each_other_are_read_in_as_large_pieces_as_one_and_interleaved_ones_share(
    tmp_path: Path,
) -> None:
    rows = [result_row(index, index) for index in range(400)]
    following = write_split(tmp_path / "a", rows, [row.index // 100 for row in rows], set())
    interleaved = write_split(tmp_path / "b", rows, [row.index % 4 for row in rows], set())

    def pieces(home: Path, parts: list[PartFile]) -> list[int]:
        with patch.object(merge, "LOADED_BYTES_MAX", 2 << 10):
            return [batch.num_rows for batch in merged_batches(home, parts, ["index", "line"])]

    alone = max(pieces(tmp_path / "a", following[:1]))
    assert max(pieces(tmp_path / "a", following)) == alone
    assert alone / 4 <= max(pieces(tmp_path / "b", interleaved)) <= alone
