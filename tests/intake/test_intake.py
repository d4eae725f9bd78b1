from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybatch.actors.intake import ERRORS_KEPT_MAX, IntakeLimits, IntakeReport, take_in
from raybatch.storage.request_index import IndexEntry, IndexReader, read_lines
from tests.intake.hostile import BAD, CHAT, HARMLESS, LINE_BYTES_MAX, REFUSED, Bad, request

MODELS = {"smol": "org/smol", "org/smol": "org/smol", "other": "org/other"}
LIMITS = IntakeLimits(requests_max=10_000, line_bytes_max=LINE_BYTES_MAX)


class Upload:
    """An upload in a directory of its own, and what intake made of it."""

    def __init__(self, directory: Path, content: bytes) -> None:
        self.directory = directory
        self.blob = directory / "upload"
        self.index_path = directory / "index.parquet"
        self.blob.write_bytes(content)

    def take_in(self, *, strict: bool = True, limits: IntakeLimits = LIMITS) -> IntakeReport:
        return take_in(self.blob, self.index_path, endpoint=CHAT, models=MODELS, limits=limits, strict=strict)

    def entries(self) -> list[IndexEntry]:
        with IndexReader(self.index_path) as index:
            return list(index)

    def left_files(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()} - {"upload"}


@pytest.fixture
def upload(tmp_path: Path) -> Any:
    return lambda lines, end=b"\n": Upload(tmp_path, end.join(lines) + end)


def codes(report: IntakeReport) -> list[tuple[int | None, str]]:
    return [(error.line, error.code) for error in report.errors]


def test_a_good_upload_is_indexed_line_by_line(upload: Any) -> None:
    lines = [request(f"id-{number}", max_tokens=10) for number in range(5_000)]
    taken = upload(lines)
    report = taken.take_in()
    assert report == IntakeReport(
        total=5_000,
        model="org/smol",
        errors=(),
        errors_total=0,
        expected_tokens=sum(entry.expected_tokens for entry in taken.entries()),
    )
    assert [entry.index for entry in taken.entries()] == list(range(5_000))
    assert [entry.custom_id for entry in taken.entries()] == [f"id-{number}" for number in range(5_000)]
    assert read_lines(taken.blob, taken.entries()) == lines
    assert taken.left_files() == {"index.parquet"}


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n \t\n"])
@pytest.mark.parametrize("last_end", [True, False])
def test_marks_blank_lines_and_line_ends_do_not_matter(
    tmp_path: Path, bom: bytes, end: bytes, last_end: bool
) -> None:
    lines = [request("a"), request("b", "org/smol")]
    taken = Upload(tmp_path, bom + end.join(lines) + (end if last_end else b""))
    report = taken.take_in()
    assert (report.total, report.errors) == (2, ())
    assert read_lines(taken.blob, taken.entries()) == lines
    assert [entry.line_number for entry in taken.entries()] == [1, 1 + end.count(b"\n")]


mixtures = st.lists(
    st.sampled_from(BAD) | st.sampled_from(REFUSED) | st.sampled_from(HARMLESS) | st.just(b"") | st.none(),
    max_size=20,
)


@dataclass
class Mixed:
    """Lines made of bad, harmless, blank and plain ones."""

    lines: list[bytes]
    bad: list[tuple[int, str]]  #: physical line and first error of each that fails a strict batch
    refused: list[tuple[int, str]]  #: and of each that is refused whatever the mode


def mixed(pieces: Iterable[Bad | bytes | None]) -> Mixed:
    made = Mixed([request("good-0")], [], [])
    seen = set(made.lines)
    for piece in pieces:
        number = len(made.lines) + 1
        piece = request(f"plain-{number}") if piece is None else piece
        line = piece.line if isinstance(piece, Bad) else piece
        made.lines.append(line)
        repeated = line in seen and bool(line)
        seen.add(line)
        if isinstance(piece, Bad) and piece not in REFUSED:
            made.bad.append((number, piece.code))
        elif isinstance(piece, Bad):
            made.refused.append((number, piece.code))
        if repeated and (not isinstance(piece, Bad) or piece in REFUSED):
            made.bad.append((number, "duplicate_custom_id"))
    return made


@settings(max_examples=60, deadline=None)
@given(mixtures)
def test_strict_names_every_bad_line_and_no_good_one(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[Bad | bytes | None]
) -> None:
    made = mixed(pieces)
    taken = Upload(tmp_path_factory.mktemp("upload"), b"\n".join(made.lines))
    report = taken.take_in()
    assert sorted({line or 0 for line, _ in codes(report)}) == [line for line, _ in made.bad]
    assert set(made.bad) <= set(codes(report))
    assert [line for line, _ in codes(report)] == sorted(line or 0 for line, _ in codes(report))
    assert taken.left_files() == (set() if made.bad else {"index.parquet"})


@settings(max_examples=60, deadline=None)
@given(mixtures)
def test_relaxed_turns_exactly_the_bad_lines_into_error_rows(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[Bad | bytes | None]
) -> None:
    made = mixed(pieces)
    taken = Upload(tmp_path_factory.mktemp("upload"), b"\n".join(made.lines))
    report = taken.take_in(strict=False)
    entries = taken.entries()
    refused = {entry.line_number: entry.error_code for entry in entries if entry.error_code}
    assert refused == {**dict(made.bad), **dict(made.refused)}
    assert (report.errors, report.refused, report.total) == ((), len(refused), len(entries))
    assert report.total == sum(bool(line.strip()) for line in made.lines)
    assert report.expected_tokens == sum(entry.expected_tokens for entry in entries)
    runnable = [entry for entry in entries if not entry.error_code]
    lines = [made.lines[entry.line_number - 1].removesuffix(b"\r") for entry in runnable]
    assert read_lines(taken.blob, runnable) == lines


def test_a_duplicate_is_reported_on_the_later_line_and_names_the_first(upload: Any) -> None:
    report = upload([request("a"), b"", request("b"), request("a"), b"oops", request("a")]).take_in()
    assert codes(report) == [(4, "duplicate_custom_id"), (5, "invalid_json_line"), (6, "duplicate_custom_id")]
    assert report.errors[0].message == (
        "The custom_id 'a' for this request is a duplicate of another request. "
        "The custom_id parameter must be unique for each request in a batch. It was first used on line 1."
    )


def test_all_errors_are_counted_and_the_first_hundred_kept_in_line_order(upload: Any) -> None:
    report = upload([request("a")] + [b"oops", request("a")] * 2_000).take_in()
    assert report.errors_total == 4_000
    assert [error.line for error in report.errors] == list(range(2, 2 + ERRORS_KEPT_MAX))
    assert {error.code for error in report.errors} == {"invalid_json_line", "duplicate_custom_id"}
    assert "4,000" in report.errors[-1].message
    assert not any("4,000" in error.message for error in report.errors[:-1])


@pytest.mark.parametrize("content", [b"", b"\n\r\n  \n\t", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("strict", [True, False])
def test_an_upload_without_requests_fails(tmp_path: Path, content: bytes, strict: bool) -> None:
    taken = Upload(tmp_path, content)
    report = taken.take_in(strict=strict)
    assert codes(report) == [(None, "empty_file")]
    assert taken.left_files() == set()


@pytest.mark.parametrize("strict", [True, False])
def test_too_many_requests_fail_naming_both_numbers(upload: Any, strict: bool) -> None:
    taken = upload([request(str(number)) for number in range(21)])
    report = taken.take_in(strict=strict, limits=IntakeLimits(requests_max=20))
    assert codes(report) == [(None, "too_many_tasks")]
    assert "21 requests" in report.errors[0].message
    assert "20 (setting scheduler.requests_max)" in report.errors[0].message
    assert taken.left_files() == set()
    assert (
        upload([request(str(number)) for number in range(20)]).take_in(limits=IntakeLimits(20)).errors == ()
    )


def test_one_endless_line_is_one_error(tmp_path: Path) -> None:
    report = Upload(tmp_path, b"x" * 3_000_000).take_in()
    assert codes(report) == [(1, "line_too_long")]
    assert "3,000,000" in report.errors[0].message


@pytest.mark.parametrize("strict", [True, False])
def test_taking_in_again_gives_the_same(upload: Any, strict: bool) -> None:
    taken = upload([request("a"), request("a"), b"oops", request("b")])
    first = taken.take_in(strict=strict)
    entries = [] if strict else taken.entries()
    assert taken.take_in(strict=strict) == first
    assert ([] if strict else taken.entries()) == entries
