from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybatch.core.model import Batch, BatchStatus, LineError, LogEntry, ResultRow, Tally, Usage
from raybatch.errors import BadRequest, Corrupt
from raybatch.storage.manifest import BatchFiles, Manifest
from raybatch.storage.parts import remove, write_part
from raybatch.storage.results import open_sql, query

BATCH = Batch(
    batch_id="batch_1",
    tenant="default",
    input_file_id="file-1",
    endpoint="/v1/chat/completions",
    completion_window="24h",
    completion_window_s=86_400.0,
    created_at=1_700_000_000.0,
    status=BatchStatus.COMPLETED,
    model="m",
    metadata={"it's": 'a "name"'},
    output_file_id="file-2",
    error_file_id="file-3",
    total=3,
    tally=Tally(completed=3, failed=0, output_bytes=30, usage=Usage(5, 6, 2)),
    completed_at=1_700_000_100.5,
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \r\n"])


def result_row(index: int, status_code: int | None = 200, text: str = "four") -> ResultRow:
    error = None if status_code == 200 else {"error": {"message": text, "type": "invalid_request_error"}}
    return ResultRow(
        position=index,
        index=index,
        custom_id=f"{text}-{index}",
        status_code=status_code,
        error_code=None if status_code else "batch_cancelled",
        error_message=None if status_code == 200 else text,
        model="m",
        text=text,
        finish_reason=None,
        prompt_tokens=5,
        completion_tokens=index,
        cached_tokens=0,
        line=json.dumps({"response": None if status_code is None else {"body": error}}).encode(),
        attempt=2,
        engine_id="engine-1",
        started_at=1_700_000_000.5,
        finished_at=1_700_000_001.75,
    )


def ask(home: Path, batches: list[BatchFiles], sql: str) -> list[tuple]:
    with open_sql(home, Manifest(tuple(batches))) as con:
        return [tuple(row.values()) for row in query(con, sql).to_pylist()]


@st.composite
def two_batches(draw) -> dict[str, list[ResultRow]]:
    rows = st.lists(st.tuples(st.sampled_from([200, 400, None]), TEXTS), max_size=8)
    return {
        batch_id: [result_row(i, status, text) for i, (status, text) in enumerate(draw(rows))]
        for batch_id in ("batch_1", "batch_2")
    }


@given(rows=two_batches(), masked=st.sets(st.integers(0, 7)))
@settings(deadline=None, max_examples=40)
def test_the_views_agree_with_the_rows_that_count(tmp_path_factory, rows, masked):
    home = tmp_path_factory.mktemp("home")
    batches = []
    for batch_id, own in rows.items():
        clean, dirty = (write_part(home, batch_id, f"part_{i}", own[i::2]) for i in range(2))
        dirty = replace(dirty, masked=tuple(row.position for row in own[1::2] if row.position in masked))
        batches.append(BatchFiles(replace(BATCH, batch_id=batch_id), None, (clean, dirty)))

    found = ask(
        home, batches, "SELECT batch_id, index, custom_id, text, line, completion_tokens FROM results"
    )
    failed = ask(
        home,
        batches,
        "SELECT batch_id, index, custom_id, error_type, error_message, attempts,"
        " epoch(first_at), epoch(last_at) FROM failed",
    )

    kept = [
        (batch_id, row)
        for batch_id, own in rows.items()
        for row in own
        if not (row.position % 2 and row.position in masked)
    ]
    assert sorted(found) == [
        (batch_id, row.index, row.custom_id, row.text, row.line.decode(), row.completion_tokens)
        for batch_id, row in kept
    ]
    assert sorted(failed) == [
        (
            *(batch_id, row.index, row.custom_id, _error_type(row), row.error_message, row.attempt),
            *(row.started_at, row.finished_at),
        )
        for batch_id, row in kept
        if not row.completed
    ]


def _error_type(row: ResultRow) -> str:
    return "batch_cancelled" if row.status_code is None else "invalid_request_error"


def test_a_batch_is_one_row_of_its_public_fields(tmp_path):
    failed = replace(
        BATCH,
        batch_id="batch_2",
        status=BatchStatus.FAILED,
        metadata=None,
        tally=Tally(),
        errors=(LineError("invalid_url", "no", "url", 3),),
        completed_at=None,
    )
    with open_sql(tmp_path, Manifest((BatchFiles(BATCH, None, ()), BatchFiles(failed, None, ())))) as con:
        first, second = query(con, "FROM batches ORDER BY batch_id").to_pylist()

    assert (first["status"], first["completed"], first["prompt_tokens"]) == ("completed", 3, 5)
    assert (first["output_file_id"], first["error_file_id"]) == ("file-2", None)
    assert (first["round"], first["paused"]) == (1, False)
    assert first["completed_at"] == datetime.fromtimestamp(1_700_000_100.5, UTC)
    assert first["expires_at"] == datetime.fromtimestamp(1_700_086_400, UTC)
    assert json.loads(first["metadata"]) == BATCH.metadata
    assert (second["status"], second["metadata"], second["completed_at"]) == ("failed", None, None)
    assert json.loads(second["errors"]) == [
        {"code": "invalid_url", "message": "no", "param": "url", "line": 3}
    ]


def test_the_log_is_a_table_of_its_entries(tmp_path):
    entries = (
        LogEntry(7, 1_700_000_000.25, "lost", "not heard of", None, "engine-1"),
        LogEntry(8, 1_700_000_001.0, "ended", "every row is committed", "batch_1"),
    )
    with open_sql(tmp_path, Manifest((), entries)) as con:
        found = query(
            con, "SELECT entry_id, epoch(logged_at) AS at, kind, batch_id, engine_id FROM log"
        ).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        (7, 1_700_000_000.25, "lost", None, "engine-1"),
        (8, 1_700_000_001.0, "ended", "batch_1", None),
    ]


def test_views_without_files_are_empty_and_typed(tmp_path):
    with open_sql(tmp_path, Manifest(())) as con:
        counts = query(
            con,
            "SELECT (SELECT count(*) FROM results), (SELECT count(*) FROM requests), count(*) FROM failed",
        )
        types = dict(
            query(con, "SELECT column_name, column_type FROM (DESCRIBE results)").to_pylist()[i].values()
            for i in (0, 1, 12, 15)
        )
        views = query(con, "SHOW TABLES").column("name").to_pylist()

    assert list(counts.to_pylist()[0].values()) == [0, 0, 0]
    assert types == {
        "batch_id": "VARCHAR",
        "index": "BIGINT",
        "line": "VARCHAR",
        "started_at": "TIMESTAMP WITH TIME ZONE",
    }
    assert views == ["batches", "failed", "log", "requests", "results"]


def upload(home: Path, data: bytes, batch_id: str = "batch_1") -> BatchFiles:
    blob = home / f"file-of-{batch_id}"
    blob.write_bytes(data)
    return BatchFiles(replace(BATCH, batch_id=batch_id), blob, ())


def request_line(custom_id: str) -> bytes:
    body = {"model": "m", "prompt": custom_id}
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}, ensure_ascii=False
    ).encode()


@given(ids=st.lists(TEXTS, max_size=8), bom=st.booleans(), end=ENDS, start=st.sampled_from([b"", b"\n"]))
@settings(deadline=None, max_examples=60)
def test_requests_are_numbered_as_in_the_upload(tmp_path_factory, ids, bom, end, start):
    home = tmp_path_factory.mktemp("home")
    data = b"\xef\xbb\xbf" * bom + start + end.join(map(request_line, ids))

    found = ask(home, [upload(home, data)], "SELECT index, custom_id, url, model, body FROM requests")

    assert [(i, name, url, model) for i, name, url, model, _ in found] == [
        (i, name, "/v1/completions", "m") for i, name in enumerate(ids)
    ]
    assert [json.loads(body)["prompt"] for *_, body in found] == ids


@pytest.mark.parametrize(
    "bad",
    [
        b"not json",
        b"{",
        b"[1,2]",
        b'"text"',
        b"null",
        b'{"custom_id":"\xff"}',
        b'{"custom_id":"\\ud800"}',
        b"\x00",
    ],
)
def test_a_bad_line_keeps_its_place_among_the_requests(tmp_path, bad):
    files = upload(tmp_path, b"\n".join([request_line("a"), bad, request_line("b")]))

    assert ask(tmp_path, [files], "SELECT index, custom_id FROM requests") == [(0, "a"), (1, None), (2, "b")]


def test_a_number_too_long_for_a_machine_stays_as_it_was_sent(tmp_path):
    files = upload(tmp_path, b'{"custom_id":"a","body":{"seed":123456789012345678901234567890}}')

    assert ask(tmp_path, [files], "SELECT body FROM requests") == [
        ('{"seed":123456789012345678901234567890}',)
    ]


def test_requests_join_results_of_their_own_batch(tmp_path):
    batches = []
    for batch_id in ("batch_1", "batch_2"):
        files = upload(tmp_path, b"\n".join(request_line(f"{batch_id}-{i}") for i in range(3)), batch_id)
        batches.append(
            replace(files, parts=(write_part(tmp_path, batch_id, "part_1", [result_row(2), result_row(0)]),))
        )

    found = ask(
        tmp_path,
        batches,
        "SELECT requests.custom_id FROM results JOIN requests USING (batch_id, index)"
        " WHERE batch_id = 'batch_2' ORDER BY index",
    )

    assert found == [("batch_2-0",), ("batch_2-2",)]


def test_only_the_files_of_the_batch_asked_for_are_read(tmp_path):
    batches = []
    for batch_id in ("batch_1", "batch_2"):
        parts = tuple(write_part(tmp_path, batch_id, f"part_{i}", [result_row(i)]) for i in range(2))
        batches.append(BatchFiles(replace(BATCH, batch_id=batch_id), None, parts))

    ((_, plan),) = ask(tmp_path, batches, "EXPLAIN SELECT text FROM results WHERE batch_id = 'batch_2'")

    assert "2/4" in plan


@pytest.mark.parametrize("name", ["a*b?[c]", "batch_id=x", "model=other", "it's"])
def test_no_name_of_the_home_changes_what_is_read(tmp_path, name):
    home = tmp_path / name
    home.mkdir()
    files = upload(home, request_line("a"))
    part = write_part(home, "batch_1", "part_1", [result_row(0), result_row(1)])
    write_part(home, "batch_1", "orphan", [result_row(2)])
    batches = [replace(files, parts=(replace(part, masked=(0,)),))]

    assert ask(home, batches, "SELECT batch_id, index, model FROM results") == [("batch_1", 1, "m")]
    assert ask(home, batches, "SELECT custom_id FROM requests") == [("a",)]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH x AS (SELECT 1 AS one) SELECT one FROM x;",
        "DESCRIBE results",
        "SHOW TABLES",
        "SUMMARIZE batches",
        "EXPLAIN SELECT 1",
        "explain (format json) FROM batches",
        "EXPLAIN ANALYZE SELECT 1",
    ],
)
def test_statements_that_read_are_run(tmp_path, sql):
    assert ask(tmp_path, [BatchFiles(BATCH, None, ())], sql)


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("COPY batches TO '{home}/out.csv'", "COPY"),
        ("EXPLAIN ANALYZE COPY batches TO '{home}/out.csv'", "COPY"),
        ("EXPLAIN /* */ ANALYZE COPY batches TO '{home}/out.csv'", "COPY"),
        ("DELETE FROM batches", "DELETE"),
        ("ATTACH '{home}/out.csv'", "ATTACH"),
        ("SET threads = 8", "SET"),
        ("SELECT 1; DROP VIEW results", "SELECT, DROP"),
        ("", "none"),
        ("SELEC 1", "syntax error"),
        ("SELECT nothing FROM results", "nothing"),
    ],
)
def test_other_statements_are_refused_and_leave_no_trace(tmp_path, sql, found):
    with pytest.raises(BadRequest, match=found):
        ask(tmp_path, [], sql.replace("{home}", str(tmp_path)))

    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_missing_file_is_named_instead_of_left_out(tmp_path):
    files = upload(tmp_path, request_line("a"))
    part = write_part(tmp_path, "batch_1", "part_1", [result_row(0)])
    assert files.blob is not None

    files.blob.unlink()
    with pytest.raises(Corrupt, match=r"file-of-batch_1.*batch_1"):
        open_sql(tmp_path, Manifest((files,)))
    remove(tmp_path, part)
    with pytest.raises(Corrupt, match=r"part_1\.parquet is missing"):
        open_sql(tmp_path, Manifest((BatchFiles(BATCH, None, (part,)),)))


def test_a_file_that_goes_while_the_views_are_open_is_an_error(tmp_path):
    parts = tuple(write_part(tmp_path, "batch_1", f"part_{i}", [result_row(i)]) for i in range(2))
    with open_sql(tmp_path, Manifest((BatchFiles(BATCH, None, parts),))) as con:
        remove(tmp_path, parts[1])

        with pytest.raises(Corrupt, match="ask again"):
            query(con, "SELECT sum(completion_tokens) FROM results")
