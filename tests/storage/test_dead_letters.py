from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybatch.core.model import CHUNK_ROWS_MAX, PartFile, Redrive, ResultRow, Tally, Usage
from raybatch.core.rounds import visible_parts
from raybatch.core.rows import offsets_of
from raybatch.errors import BadRequest
from raybatch.storage.dead_letters import DeadLetter, dead_letters, redrive_spans
from raybatch.storage.manifest import BatchFiles, Manifest
from raybatch.storage.parts import write_part
from raybatch.storage.results import open_sql, query
from tests.storage.test_results_sql import BATCH

#: status, what error.type the envelope holds (None: there is none), error_code, and the type that is shown
REASONS = (
    (200, None, None, ""),
    (400, "invalid_request_error", "nope", "invalid_request_error"),
    (400, None, "nope", "nope"),
    (503, None, None, "http_503"),
    (None, None, "engine_crash", "engine_crash"),
)


def result_row(position: int, reason: int, attempt: int = 1, index: int | None = None) -> ResultRow:
    status, kind, code, _ = REASONS[reason]
    answer = {"status_code": status, "body": {"error": {} if kind is None else {"type": kind}}}
    line = json.dumps({"response": None if status is None else answer, "error": None}).encode()
    return ResultRow(
        position=position,
        index=position if index is None else index,
        custom_id=f"r{position}",
        status_code=status,
        error_code=code,
        error_message="why",
        model="m",
        text=None,
        finish_reason=None,
        prompt_tokens=position % 7,
        completion_tokens=attempt,
        cached_tokens=0,
        line=line,
        attempt=attempt,
        engine_id="engine-1",
        started_at=100.0 * attempt + 0.25,
        finished_at=100.0 * attempt + 50.5,
    )


def tally_of(rows: Sequence[ResultRow]) -> Tally:
    usage = sum((Usage(row.prompt_tokens, row.completion_tokens) for row in rows), Usage())
    return Tally(failed=len(rows), error_bytes=sum(len(row.line) + 1 for row in rows), usage=usage)


def letters_by_sql(home: Path, files: BatchFiles) -> list[DeadLetter]:
    with open_sql(home, Manifest((files,))) as con:
        found = query(
            con,
            "SELECT index, custom_id, error_type, error_code, error_message, status_code, attempts,"
            " epoch(first_at) AS first_at, epoch(last_at) AS last_at FROM failed ORDER BY index",
        )
    return [DeadLetter(**row) for row in found.to_pylist()]


@given(
    reasons=st.lists(st.integers(0, len(REASONS) - 1), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
    chosen=st.sets(st.sampled_from([reason[3] for reason in REASONS[1:]]), min_size=1),
    rounds=st.integers(1, 3),
)
@settings(deadline=None, max_examples=15)
def test_over_all_rounds_letters_and_spans_agree_with_the_rows(
    tmp_path_factory, reasons, order, chosen, rounds
):
    """Rows fail, those of some types run again, and some of them fail for another reason."""
    home = tmp_path_factory.mktemp("home")
    positions = list(range(len(reasons)))
    order.shuffle(positions)
    newest = {
        position: result_row(position, reason, index=index)
        for index, (position, reason) in enumerate(zip(positions, reasons, strict=True))
    }
    parts = [
        write_part(
            home, "batch_1", f"p1-{half}", [row for row in newest.values() if row.position % 2 == half]
        )
        for half in (0, 1)
    ]
    redrives: list[Redrive] = []
    for round_ in range(1, rounds + 1):
        shown = visible_parts(parts, redrives, round_)
        failed = sorted((row for row in newest.values() if not row.completed), key=lambda row: row.index)
        expected = [
            DeadLetter(
                index=row.index,
                custom_id=row.custom_id,
                error_type=_type(row),
                error_code=row.error_code,
                error_message="why",
                status_code=row.status_code,
                attempts=row.attempt,
                first_at=100.25,
                last_at=row.finished_at,
            )
            for row in failed
        ]
        earlier = tuple(parts) if redrives else ()
        assert list(dead_letters(home, shown, earlier=earlier)) == expected
        assert letters_by_sql(home, BatchFiles(BATCH, None, shown, earlier)) == expected
        after = len(reasons) // 2
        assert list(dead_letters(home, shown, earlier=earlier, after_index=after, error_types=chosen)) == [
            letter for letter in expected if letter.index > after and letter.error_type in chosen
        ]

        present = {_type(row) for row in failed} & chosen
        if not present:
            break
        spans, tally = redrive_spans(home, shown, error_types=tuple(present))
        matching = [row for row in failed if _type(row) in present]
        assert tally == tally_of(matching)
        again = [span.first + offset for span in spans for offset in offsets_of(span.rows)]
        assert again == sorted(row.position for row in matching)
        redrives.append(Redrive("batch_1", round_ + 1, spans))
        rerun = [
            result_row(row.position, order.randrange(len(REASONS)), attempt=row.attempt + 1, index=row.index)
            for row in matching
        ]
        newest |= {row.position: row for row in rerun}
        parts.append(replace(write_part(home, "batch_1", f"p{round_ + 1}", rerun), round=round_ + 1))


def _type(row: ResultRow) -> str:
    return next(
        shown
        for status, kind, code, shown in REASONS
        if (status, code) == (row.status_code, row.error_code)
        and (kind is None) == (b'"type"' not in row.line)
    )


@pytest.fixture
def part(tmp_path: Path) -> PartFile:
    """Five hundred neighbours, three far apart, all failed; the last two tried more often."""
    rows = [result_row(position, 1) for position in range(500)]
    rows += [result_row(position, 4, attempt) for position, attempt in ((4_095, 1), (4_096, 3), (8_191, 2))]
    return write_part(tmp_path, "batch_1", "p", rows)


def test_spans_are_disjoint_ascending_and_small(tmp_path: Path, part: PartFile) -> None:
    spans, tally = redrive_spans(tmp_path, [part])
    assert tally.failed == 503
    assert [(span.first, span.count, span.rows.bit_count(), span.attempt) for span in spans] == [
        (0, 256, 256, 1),
        (256, 3_841, 246, 3),
        (8_191, 1, 1, 2),
    ]
    assert all(span.count <= CHUNK_ROWS_MAX for span in spans)


def test_rows_are_picked_by_type_and_id_together(tmp_path: Path, part: PartFile) -> None:
    spans, tally = redrive_spans(tmp_path, [part], ("engine_crash",), ("r4095", "r3", "r8191"))
    assert [(span.first, span.rows) for span in spans] == [(4_095, 1), (8_191, 1)]
    assert tally.failed == 2


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"custom_ids": ["r1", *(f"x{i}" for i in range(8))]}, "'x0', 'x1', 'x2', 'x3', 'x4' and 3 more"),
        ({"error_types": ["oom", "engine_crash"]}, "'oom'.*'invalid_request_error', 'engine_crash'"),
    ],
)
def test_what_no_failed_row_has_is_named(
    tmp_path: Path, part: PartFile, asked: dict[str, list[str]], named: str
) -> None:
    with pytest.raises(BadRequest, match=named):
        redrive_spans(tmp_path, [part], **asked)


def test_of_no_rows_there_is_nothing_to_run_again(tmp_path: Path) -> None:
    assert redrive_spans(tmp_path, []) == ((), Tally())
    assert list(dead_letters(tmp_path, [])) == []
