"""Every sort of bad file, in both modes: each bad line is named, no good one is, and none else is harmed."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raybatch.actors.intake import IntakeLimits, IntakeReport, take_in
from raybatch.core.model import PartFile, ResultRow
from raybatch.storage import exports
from raybatch.storage.parts import write_part
from raybatch.storage.request_index import IndexEntry, IndexReader, read_lines
from raybatch.wire.result_line import Origin, answered_row, refused_row
from tests.intake.hostile import (
    BAD,
    CHAT,
    HARMLESS,
    HUGE,
    LINE_BYTES_MAX,
    MODEL,
    NAUGHTY,
    REFUSED,
    Bad,
    request,
)

MODELS = {MODEL: "org/smol", "org/smol": "org/smol", "other": "org/other"}
LIMITS = IntakeLimits(requests_max=10_000, line_bytes_max=LINE_BYTES_MAX)


class Taken:
    """An upload of these bytes, taken in."""

    def __init__(
        self, directory: Path, content: bytes, *, strict: bool, limits: IntakeLimits = LIMITS
    ) -> None:
        self.blob, self._index_path = directory / "upload", directory / "index.parquet"
        self.blob.write_bytes(content)
        self.report: IntakeReport = take_in(
            self.blob, self._index_path, endpoint=CHAT, models=MODELS, limits=limits, strict=strict
        )

    @property
    def errors(self) -> list[tuple[int | None, str]]:
        return [(error.line, error.code) for error in self.report.errors]

    def entries(self) -> list[IndexEntry]:
        with IndexReader(self._index_path) as index:
            return list(index)

    def bad_rows(self) -> list[tuple[int, str, str | None]]:
        return [
            (entry.line_number, entry.error_code, entry.custom_id)
            for entry in self.entries()
            if entry.error_code is not None
        ]

    def lines(self) -> list[bytes]:
        """Of the requests that are to run."""
        return read_lines(self.blob, [entry for entry in self.entries() if entry.error_code is None])


def neighboured(line: bytes) -> bytes:
    return b"\n".join((request("before"), line, request("after"))) + b"\n"


# -- line by line ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_strict_fails_for_the_bad_line_alone(tmp_path: Path, bad: Bad) -> None:
    taken = Taken(tmp_path, neighboured(bad.line), strict=True)
    assert taken.errors[0] == (2, bad.code)
    assert {line for line, _ in taken.errors} == {2}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_relaxed_runs_its_neighbours(tmp_path: Path, bad: Bad) -> None:
    taken = Taken(tmp_path, neighboured(bad.line), strict=False)
    assert taken.report.errors == ()
    assert taken.bad_rows() == [(2, bad.code, bad.custom_id)]
    assert taken.lines() == [request("before"), request("after")]


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.name)
@pytest.mark.parametrize("strict", [True, False])
def test_what_no_engine_must_see_costs_its_own_line_in_both_modes(
    tmp_path: Path, refused: Bad, strict: bool
) -> None:
    taken = Taken(tmp_path, neighboured(refused.line), strict=strict)
    assert taken.report.errors == ()
    assert taken.bad_rows() == [(2, refused.code, refused.custom_id)]
    assert taken.lines() == [request("before"), request("after")]


@pytest.mark.parametrize("strict", [True, False])
def test_what_only_looks_hostile_runs_as_it_is(tmp_path: Path, strict: bool) -> None:
    taken = Taken(tmp_path, b"\n".join((*HARMLESS, *HUGE)), strict=strict)
    assert (taken.report.errors, taken.report.refused) == ((), 0)
    lines = [line.removesuffix(b"\r") for line in (*HARMLESS, *HUGE)]
    assert taken.lines() == lines
    ids = [json.loads(line, parse_int=str)["custom_id"] for line in lines]
    assert [entry.custom_id for entry in taken.entries()] == ids


def all_together() -> tuple[list[bytes], dict[int, Bad]]:
    """Every bad line between harmless ones, blank lines, too; the bad ones by physical line."""
    lines: list[bytes] = []
    bad_lines = {}
    for number, bad in enumerate(BAD):
        lines += [request(f"clean {number}"), b"", bad.line, b" \t"]
        bad_lines[len(lines) - 1] = bad
    return [*lines, *HARMLESS], bad_lines


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_all_of_them_together_are_told_apart(tmp_path: Path, end: bytes) -> None:
    lines, bad_lines = all_together()
    strict = Taken(tmp_path, end.join(lines), strict=True)
    named: dict[int | None, str] = {}
    for line, code in strict.errors:
        named.setdefault(line, code)
    assert named == {line: bad.code for line, bad in bad_lines.items()}
    relaxed = Taken(tmp_path, end.join(lines), strict=False)
    assert relaxed.bad_rows() == [(line, bad.code, bad.custom_id) for line, bad in bad_lines.items()]
    assert relaxed.report.total == len(BAD) + len(BAD) + len(HARMLESS)


# -- duplicates and models ---------------------------------------------------------------------------------


def test_the_first_use_of_an_id_is_good_and_every_later_one_is_bad(tmp_path: Path) -> None:
    ids = ["a", "b", "a", "\u00e9", "e\u0301", "A", "a ", "a"]  # equal only where every byte is
    lines = b"\n".join(map(request, ids))
    duplicates = [(3, "duplicate_custom_id"), (8, "duplicate_custom_id")]
    assert Taken(tmp_path, lines, strict=True).errors == duplicates
    relaxed = Taken(tmp_path, lines, strict=False)
    assert relaxed.bad_rows() == [(*duplicate, "a") for duplicate in duplicates]
    assert len(relaxed.lines()) == 6


def test_another_model_is_bad_where_one_is_asked_for_and_good_where_several_may_be(tmp_path: Path) -> None:
    lines = [request("a"), request("b", "other"), request("c", "org/smol"), request("d", "other")]
    mismatched = [(2, "mismatched_model"), (4, "mismatched_model")]
    assert Taken(tmp_path, b"\n".join(lines), strict=True).errors == mismatched
    relaxed = Taken(tmp_path, b"\n".join(lines), strict=False)
    assert (relaxed.report.errors, relaxed.report.refused) == ((), 0)
    assert relaxed.report.model is None
    assert [(span.model, span.first, span.count) for span in relaxed.report.spans] == [
        ("org/smol", 0, 2),
        ("org/other", 2, 2),
    ]
    assert [(entry.index, entry.custom_id) for entry in relaxed.entries()] == [
        (0, "a"),
        (2, "c"),
        (1, "b"),
        (3, "d"),
    ]
    assert relaxed.lines() == [lines[0], lines[2], lines[1], lines[3]]


def test_of_several_models_each_has_its_rows_in_order_and_its_share_of_the_tokens(tmp_path: Path) -> None:
    named = ["other" if number % 3 == 0 else "smol" for number in range(10_000)]
    named[5_000] = "unheard-of"
    lines = [request(str(number), model, max_tokens=number) for number, model in enumerate(named)]
    lines[7_000] = lines[6_999]
    taken = Taken(tmp_path, b"\n".join(lines), strict=False)
    entries = taken.entries()
    assert sorted(entry.index for entry in entries) == list(range(10_000))
    spans = {span.model: span for span in taken.report.spans}
    assert [span.first for span in taken.report.spans] == [0, spans["org/other"].count]
    for served, names in (("org/other", ("other",)), ("org/smol", ("smol", "unheard-of"))):
        span = spans[served]
        own = entries[span.first : span.first + span.count]
        assert [entry.index for entry in own] == sorted(entry.index for entry in own)
        assert span.expected_tokens == sum(entry.expected_tokens for entry in own)
        assert {named[entry.index] for entry in own} - set(names) <= {"other", "smol"}
        assert all(named[entry.index] in names for entry in own if entry.error_code is None)
    assert [code for _, code, _ in taken.bad_rows()].count("model_not_found") == 1
    assert [code for _, code, _ in taken.bad_rows()].count("duplicate_custom_id") == 1
    assert taken.report.expected_tokens == sum(span.expected_tokens for span in taken.report.spans)


def test_taking_in_several_models_again_gives_the_same(tmp_path: Path) -> None:
    content = b"\n".join(request(str(number), "smol" if number % 2 else "other") for number in range(100))
    first = Taken(tmp_path, content, strict=False)
    entries = first.entries()
    again = Taken(tmp_path, content, strict=False)
    assert (again.report, again.entries()) == (first.report, entries)


# -- whole files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\r\n \n\t\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n\n"],
    ids=["empty", "one newline", "blank lines", "a mark", "a mark and blank lines"],
)
def test_a_file_without_a_request_fails_in_both_modes(tmp_path: Path, content: bytes, strict: bool) -> None:
    assert Taken(tmp_path, content, strict=strict).errors == [(None, "empty_file")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_in_another_encoding_is_bad_in_every_line(tmp_path: Path, encoding: str) -> None:
    content = b"\n".join(request(str(number)) for number in range(5)).decode().encode(encoding)
    strict = Taken(tmp_path, content, strict=True)
    assert strict.errors
    assert {code for _, code in strict.errors} == {"invalid_json_line"}
    relaxed = Taken(tmp_path, content, strict=False)
    assert relaxed.report.refused == relaxed.report.total == len(strict.errors)


@pytest.mark.parametrize("strict", [True, False])
def test_one_line_without_an_end_is_a_whole_file(tmp_path: Path, strict: bool) -> None:
    assert Taken(tmp_path, request("alone"), strict=strict).lines() == [request("alone")]


def test_a_line_of_many_megabytes_is_counted_and_never_held(tmp_path: Path) -> None:
    content = b"".join((request("before"), b"\n", b"x" * (64 << 20), b"\n", request("after")))
    tracemalloc.start()
    try:
        taken = Taken(tmp_path, content, strict=False)
        held_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken.bad_rows() == [(2, "line_too_long", None)]
    assert len(taken.lines()) == 2
    assert held_bytes < 16 << 20


def test_an_id_of_a_million_characters_is_an_id(tmp_path: Path) -> None:
    ids = [letter * 1_000_000 for letter in "aéa"]
    content = b"\n".join(map(request, ids))
    limits = IntakeLimits(10_000, 8 << 20)
    strict = Taken(tmp_path, content, strict=True, limits=limits)
    assert strict.errors == [(3, "duplicate_custom_id")]
    assert len(strict.report.errors[0].message) < 1_000
    relaxed = Taken(tmp_path, content, strict=False, limits=limits)
    assert [entry.custom_id for entry in relaxed.entries()] == ids
    assert relaxed.bad_rows() == [(3, "duplicate_custom_id", ids[0])]


# -- into the results --------------------------------------------------------------------------------------


def origin(number: int, custom_id: str | None) -> Origin:
    return Origin(number, number, custom_id, 1, "e1", 1.0, 2.0)


def result_rows() -> list[ResultRow]:
    """Each naughty text as id and answer, and as the id of a refused line."""
    rows = []
    for number, text in enumerate(NAUGHTY):
        body = json.dumps({"choices": [{"message": {"content": text}}]}, ensure_ascii=number % 2 == 0)
        ids = {"row_id": "batch_req_1"}
        row = answered_row(origin(2 * number, text), 200, body.encode(), request_id="req_1", **ids)
        rows += [row, refused_row(origin(2 * number + 1, text + "!"), "invalid_url", text, 7, **ids)]
    return rows


def test_naughty_strings_come_back_byte_for_byte_from_jsonl_and_parquet(tmp_path: Path) -> None:
    part: PartFile = write_part(tmp_path, "batch_1", "part-1", result_rows())
    output, error = (b"".join(exports.jsonl(tmp_path, [part], kind)) for kind in ("output", "error"))
    answers: list[Any] = [json.loads(line) for line in output.split(b"\n")[:-1]]
    assert [answer["custom_id"] for answer in answers] == list(NAUGHTY)
    contents = [answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers]
    assert contents == list(NAUGHTY)
    errors: list[Any] = [json.loads(line) for line in error.split(b"\n")[:-1]]
    assert [found["custom_id"] for found in errors] == [text + "!" for text in NAUGHTY]
    exports.parquet(tmp_path, [part], tmp_path / "results.parquet")
    table = pq.read_table(tmp_path / "results.parquet").to_pydict()
    assert table["custom_id"][::2] == table["text"][::2] == list(NAUGHTY)
    assert table["custom_id"][1::2] == [text + "!" for text in NAUGHTY]
