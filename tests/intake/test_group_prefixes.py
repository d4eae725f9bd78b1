"""Rows whose prompts begin alike lie together in the index; nothing else changes its place."""

from __future__ import annotations

import json
import random
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybatch.actors import intake
from raybatch.actors.intake import IntakeLimits, IntakeReport, IntakeTerms, blocks, take_in_blocks
from raybatch.storage.request_index import IndexEntry, IndexReader, IndexWriter
from raybatch.wire.prompt_beginnings import DEPTHS, MARKS, PromptBeginnings

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MODELS = {"smol": "org/smol", "other": "org/other"}


def chat(custom_id: str, system: str, user: str, model: str = "smol") -> bytes:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    body = {"model": model, "messages": messages}
    line = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}
    return json.dumps(line).encode()


def long(name: str) -> str:
    """Prose of its own, longer than the second depth."""
    return f"You answer as {name} would. " + " ".join(f"{name}-{number}" for number in range(400))


def taken(
    home: Path, lines: list[bytes], *, strict: bool = True, grouped: bool = True
) -> tuple[IntakeReport, list[IndexEntry]]:
    upload, index_path = home / "upload", home / "index.parquet"
    upload.write_bytes(b"\n".join(lines))
    terms = IntakeTerms(CHAT, MODELS, IntakeLimits(), strict, group_prefixes=grouped)
    report = take_in_blocks(blocks(upload), index_path, terms)
    with IndexReader(index_path) as index:
        return report, list(index)


def shuffled(systems: int, rows: int, *, models: tuple[str, ...] = ("smol",)) -> list[bytes]:
    lines = [
        chat(f"{system}/{row}", long(f"expert{system}"), f"question {row}", models[row % len(models)])
        for system in range(systems)
        for row in range(rows)
    ]
    random.Random(0).shuffle(lines)
    return lines


def systems_of(entries: list[IndexEntry]) -> list[str]:
    """Of each stretch of rows with the same system prompt."""
    return [system for system, _ in groupby((entry.custom_id or "").partition("/")[0] for entry in entries)]


def test_rows_with_one_system_prompt_come_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    lines = shuffled(systems=7, rows=30)
    report, entries = taken(tmp_path, lines)
    _, in_file = taken(tmp_path, lines, grouped=False)
    assert report.total == 210
    assert sorted(entries) == in_file
    first_seen = list(dict.fromkeys((entry.custom_id or "").partition("/")[0] for entry in in_file))
    assert systems_of(entries) == first_seen
    for _, group in groupby(entries, key=lambda entry: (entry.custom_id or "").partition("/")[0]):
        numbers = [entry.index for entry in group]
        assert numbers == sorted(numbers)


def test_within_one_system_prompt_the_same_document_comes_together(tmp_path: Path) -> None:
    lines = [
        chat(f"{document}/{row}", long("clerk"), f"{long(f'paper{document}')} question {row}")
        for row in range(4)
        for document in range(5)
    ]
    _, entries = taken(tmp_path, lines)
    assert systems_of(entries) == ["0", "1", "2", "3", "4"]


def test_prompts_of_their_own_keep_the_order_of_the_file(tmp_path: Path) -> None:
    lines = [chat(f"{row}", long("clerk"), long(f"user{row}")) for row in range(300)]
    _, entries = taken(tmp_path, lines)
    assert [entry.index for entry in entries] == list(range(300))


def test_switched_off_the_order_is_the_files(tmp_path: Path) -> None:
    _, entries = taken(tmp_path, shuffled(systems=7, rows=30), grouped=False)
    assert [entry.index for entry in entries] == list(range(210))


def test_rows_of_one_model_stay_within_their_span(tmp_path: Path) -> None:
    report, entries = taken(tmp_path, shuffled(systems=5, rows=20, models=("smol", "other")), strict=False)
    assert [span.count for span in report.spans] == [50, 50]
    for span in report.spans:
        rows = entries[span.first : span.first + span.count]
        assert {int((entry.custom_id or "").partition("/")[2]) % 2 for entry in rows} in ({0}, {1})
        assert len(systems_of(rows)) == 5


def test_lines_that_cannot_run_keep_their_errors_and_move_with_the_line_before(tmp_path: Path) -> None:
    lines = shuffled(systems=3, rows=10)
    lines[11:11] = [b"oops"]
    report, entries = taken(tmp_path, lines, strict=False)
    assert report.refused == 1
    assert sorted(entry.index for entry in entries) == list(range(31))
    bad = next(place for place, entry in enumerate(entries) if entry.error_code)
    assert entries[bad].line_number == 12
    assert entries[bad - 1].line_number == 11
    assert len(systems_of([entry for entry in entries if entry.custom_id])) == 3


def test_a_large_index_is_grouped_stretch_by_stretch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that neither the memory nor how far a row is from its place grows with the upload."""
    monkeypatch.setattr(intake, "GROUPED_BYTES", 1)
    monkeypatch.setattr("raybatch.storage.request_index.ROW_GROUP_ROWS", 50)
    _, entries = taken(tmp_path, shuffled(systems=4, rows=50))
    for first in range(0, 200, 50):
        stretch = entries[first : first + 50]
        assert sorted(entry.index for entry in stretch) == list(range(first, first + 50))
        assert len(systems_of(stretch)) == 4


def test_taking_in_again_gives_the_same_index(tmp_path: Path) -> None:
    lines = shuffled(systems=7, rows=30)
    assert taken(tmp_path, lines) == taken(tmp_path, lines)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (COMPLETIONS, '"model":"m","prompt":"{}"'),
        (RESPONSES, '"model":"m","input":"and then?","instructions":"{}"'),
        (CHAT, '"model":"m","messages":[{{"role":"user","content":"{}"}}]'),
    ],
)
def test_what_stands_before_the_prompt_does_not_count(endpoint: str, body: str) -> None:
    beginnings = PromptBeginnings(endpoint)
    for row in range(12):
        text = long(f"expert{row % 3}").replace(" ", "-")
        beginnings.add(f'{{"custom_id":"row {row}","body":{{{body.format(text)}}}}}'.encode())
    order = beginnings.order(np.arange(12), np.zeros(12, np.uint16))
    assert order.tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


def test_embeddings_are_left_as_they_are() -> None:
    assert "/v1/embeddings" not in MARKS
    beginnings = PromptBeginnings("/v1/embeddings")
    for _ in range(3):
        beginnings.add(b'{"body":{"input":"the same"}}')
    assert beginnings.order(np.arange(3), np.zeros(3, np.uint16)).tolist() == [0, 1, 2]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, len(DEPTHS))), max_size=60))
def test_every_row_keeps_a_place_and_models_stay_apart(rows: list[tuple[int, int, int]]) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    beginnings = PromptBeginnings(COMPLETIONS)
    for _, letter, depth in rows:
        text = str(letter) * ([0, *DEPTHS][depth] + 10)
        beginnings.add(b'"prompt":"' + text.encode() + b'"')
    models = np.array([model for model, _, _ in rows], np.uint16)
    order = beginnings.order(np.arange(len(rows)), models).tolist()
    assert sorted(order) == list(range(len(rows)))
    assert [models[place] for place in order] == models.tolist()


def test_a_stretch_ends_where_the_next_rows_would_be_too_many_bytes(tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    with IndexWriter(path) as index:
        for number in range(10_000):
            index.add(IndexEntry(number, number, 1, number, f"row {number}", 1))
    with IndexReader(path) as index:
        assert list(index.stretches(1 << 30)) == [(0, 10_000)]
        assert list(index.stretches(1)) == [(0, 4_096), (4_096, 8_192), (8_192, 10_000)]
        backwards = index.table(4_096, 10_000, np.arange(5_903, -1, -1))
        assert backwards["index"].to_pylist() == list(range(9_999, 4_095, -1))
