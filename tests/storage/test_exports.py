from __future__ import annotations

import csv as csv_format
import io
import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybatch.core.model import PartFile, ResultRow, Tally
from raybatch.storage import exports, merge
from raybatch.storage.exports import (
    PIECE_BYTES_MAX,
    PIECE_BYTES_MIN,
    TABLE_SCHEMA,
    Marks,
    csv,
    jsonl,
    parquet,
)
from raybatch.storage.parts import write_part

NAUGHTY = [
    "",
    '"',
    "a,b",
    "line\nbreak",
    "\r",
    "\r\n",
    "\x00",
    "\u2028",
    "👩‍🔬",
    "=1+1",
    " padded ",
    "\ufeff",
    "'",
]
TEXTS = st.sampled_from(NAUGHTY) | st.text(st.characters(exclude_categories=["Cs"]))


def result_row(index: int, status_code: int | None, text: str | None, line: bytes) -> ResultRow:
    return ResultRow(
        position=index,
        index=index,
        custom_id=text,
        status_code=status_code,
        error_code=None if status_code == 200 else "batch_cancelled",
        error_message=text,
        model="m",
        text=text,
        finish_reason=None,
        prompt_tokens=1,
        completion_tokens=2,
        cached_tokens=0,
        line=line,
        attempt=1,
        engine_id="engine-1",
        started_at=1_700_000_000.5,
        finished_at=1_700_000_001.5,
    )


@st.composite
def some_rows(draw) -> list[ResultRow]:
    texts = draw(st.lists(TEXTS, max_size=12))
    statuses = draw(st.lists(st.sampled_from([200, 400, None]), min_size=len(texts), max_size=len(texts)))
    return [
        result_row(i, status, text, text.encode())
        for i, (status, text) in enumerate(zip(statuses, texts, strict=True))
    ]


def in_two_parts(home: Path, rows: list[ResultRow]) -> list[PartFile]:
    return [write_part(home, "batch_1", f"part_{i}", rows[i::2]) for i in range(2)]


def tally(rows: list[ResultRow]) -> Tally:
    completed = [len(row.line) + 1 for row in rows if row.completed]
    failed = [len(row.line) + 1 for row in rows if not row.completed]
    return Tally(len(completed), len(failed), sum(completed), sum(failed))


@given(rows=some_rows(), cuts=st.tuples(st.integers(0, 300), st.integers(0, 300)))
@settings(deadline=None)
def test_the_files_are_the_lines_in_input_order_and_as_long_as_the_tally_says(tmp_path_factory, rows, cuts):
    home = tmp_path_factory.mktemp("home")
    parts = in_two_parts(home, rows)

    output, error = (b"".join(jsonl(home, parts, kind)) for kind in ("output", "error"))

    assert output == b"".join(row.line + b"\n" for row in rows if row.completed)
    assert error == b"".join(row.line + b"\n" for row in rows if not row.completed)
    assert (len(output), len(error)) == (tally(rows).output_bytes, tally(rows).error_bytes)
    start, stop = sorted(cuts)
    assert b"".join(jsonl(home, parts, "output", start=start, stop=stop)) == output[start:stop]
    marks = Marks()
    with patch.object(exports, "MARK_EVERY_BYTES", 1), patch.object(merge, "LOADED_BYTES_MAX", 1):
        for first, last in ((start, stop), (0, None), (stop, None), (start, stop)):
            found = b"".join(jsonl(home, parts, "output", start=first, stop=last, marks=marks))
            assert found == output[first:last]


def test_pieces_are_neither_too_small_nor_too_large(tmp_path):
    sizes = random.Random(3)
    rows = [result_row(i, 200, None, b"x" * sizes.choice([10, 5_000, 3 << 20])) for i in range(60)]
    parts = in_two_parts(tmp_path, rows)
    whole = b"".join(row.line + b"\n" for row in rows)
    middle = len(whole) // 2

    pieces = list(jsonl(tmp_path, parts, "all"))

    assert b"".join(pieces) == whole
    assert all(PIECE_BYTES_MIN <= len(piece) <= PIECE_BYTES_MIN + PIECE_BYTES_MAX for piece in pieces[:-1])
    assert (
        b"".join(jsonl(tmp_path, parts, "all", start=middle, stop=middle + 5_000_000))
        == (whole[middle : middle + 5_000_000])
    )


@given(rows=some_rows())
@settings(deadline=None)
def test_csv_gives_every_text_back_to_a_reader_of_rfc_4180(tmp_path_factory, rows):
    home = tmp_path_factory.mktemp("home")

    text = b"".join(csv(home, in_two_parts(home, rows))).decode()

    header, *found = csv_format.reader(io.StringIO(text, newline=""), strict=True)
    assert header == TABLE_SCHEMA.names
    assert not {"line", "position"} & set(header)
    assert [dict(zip(header, values, strict=True))["text"] for values in found] == [row.text for row in rows]
    assert all(values[header.index("started_at")] == "2023-11-14T22:13:20.500000Z" for values in found)
    assert text.count("\r\n") >= 1 + len(rows)


def test_parquet_holds_the_same_table_and_is_replaced_whole(tmp_path):
    rows = [result_row(i, 200 if i % 2 else None, text, b"{}") for i, text in enumerate(NAUGHTY)]
    out = tmp_path / "results.parquet"
    out.write_bytes(b"an older export")

    parquet(tmp_path, in_two_parts(tmp_path, rows), out)

    table = pq.read_table(out)
    assert table.schema.names == TABLE_SCHEMA.names
    assert table["text"].to_pylist() == NAUGHTY
    assert table["status_code"].to_pylist() == [row.status_code for row in rows]
    assert table["started_at"][0].as_py() == datetime.fromtimestamp(1_700_000_000.5, UTC)
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(("kind", "kept"), [("all", [5, 8, 9]), ("output", [5, 9]), ("error", [8])])
def test_every_format_has_the_wanted_rows_of_the_wanted_kind(tmp_path, kind, kept):
    rows = [result_row(i, 200 if i % 2 else 400, str(i), b"%d" % i) for i in range(10)]
    parts = in_two_parts(tmp_path, rows)
    out = tmp_path / "rest.parquet"

    def wanted(part, positions):
        return np.isin(positions, [5, 8, 9])

    parquet(tmp_path, parts, out, kind, wanted)

    assert b"".join(jsonl(tmp_path, parts, kind, wanted=wanted)) == b"".join(b"%d\n" % i for i in kept)
    text = b"".join(csv(tmp_path, parts, kind, wanted)).decode()
    assert [int(row["index"]) for row in csv_format.DictReader(io.StringIO(text))] == kept
    assert pq.read_table(out)["index"].to_pylist() == kept


def test_a_range_read_again_passes_over_no_more_than_lies_since_the_last_mark(tmp_path):
    rows = [result_row(i, 200, None, b"%0999d" % i) for i in range(30_000)]
    parts = in_two_parts(tmp_path, rows)
    marks, passed = Marks(), []

    def counted(part, positions):
        passed.append(len(positions))
        return np.ones(len(positions), bool)

    for _ in range(2):
        passed.clear()
        start, stop = 29_000_000, 29_001_500
        found = b"".join(jsonl(tmp_path, parts, "all", start=start, stop=stop, marks=marks, wanted=counted))
        assert found == b"%0999d\n" % 29_000 + (b"%0999d" % 29_001)[:500]
    assert 0 < sum(passed) < 12_000


@pytest.mark.parametrize("kind", ["all", "output", "error"])
def test_a_batch_without_rows_has_empty_files(tmp_path, kind):
    masked = replace(write_part(tmp_path, "batch_1", "part_1", [result_row(0, 200, "", b"{}")]), masked=(0,))

    assert list(jsonl(tmp_path, [], kind)) == []
    assert list(jsonl(tmp_path, [masked], kind)) == []
    assert b"".join(csv(tmp_path, [])).decode() == ",".join(TABLE_SCHEMA.names) + "\r\n"
