from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from raybatch.actors.cluster_facts import ClusterFacts
from raybatch.actors.reads import BatchRows
from raybatch.config import Home
from raybatch.core.changes import BatchCreated
from raybatch.core.model import Batch, LogEntry, PartFile, Redrive, ResultRow, RowSpan
from raybatch.core.state import State
from raybatch.ledger.durable import DurableMemory
from raybatch.storage.parts import write_part
from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer

BATCH = Batch("batch_1", "default", "file-1", "/v1/completions", "24h", 86_400.0, 1_000.0)
ROW = ResultRow(
    *(0, 0, "first", 200, None, None, "org/small", "Paris\x1b[2J", "stop", 5, 1, 0, b"{}", 1, "e"),
    *(1_001.0, 1_002.0),
)


@pytest.fixture
def part(home: Home) -> PartFile:
    return write_part(home.root, "batch_1", "part1", [ROW])


def manifest_json(*rows: BatchRows) -> object:
    return list(msgspec.to_builtins(rows))


def tell_log(server: FakeServer, *entries: LogEntry) -> None:
    server.answer("GET", "/admin/log", list(msgspec.to_builtins(entries)))


def remember(home: Home, *batches: Batch) -> None:
    memory, state = DurableMemory(home.ledger), State()
    memory.load()
    for batch in batches:
        memory.remember((BatchCreated(batch),), state.apply(BatchCreated(batch)), 0.0)
    memory.close()


def test_a_stopped_home_is_read_from_its_ledger(raybatch: Run, home: Home, server: FakeServer) -> None:
    remember(home, BATCH, replace(BATCH, batch_id="batch_2", input_file_id="../../etc/passwd"))
    result = raybatch("sql", "SELECT batch_id, total FROM batches ORDER BY ALL", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [
        {"batch_id": "batch_1", "total": 0},
        {"batch_id": "batch_2", "total": 0},
    ]
    assert server.asked == []


def test_a_running_home_is_asked_for_its_manifest(
    raybatch: Run, home: Home, server: FakeServer, running: ClusterFacts, part: PartFile
) -> None:
    (home.files / "file-1").write_bytes(
        b'{"custom_id":"first","url":"/v1/completions","body":{"prompt":"p"}}\n'
    )
    tell_log(server, LogEntry(1, 1_000.0, "created", "by hand", "batch_1"))
    server.answer("GET", "/admin/manifest", manifest_json(BatchRows(BATCH, (part,))))
    assert raybatch("sql", "SELECT kind FROM log", "--csv").stdout == "kind\ncreated\n"
    joined = "SELECT r.text, q.custom_id FROM results r JOIN requests q USING (batch_id, index)"
    assert raybatch("sql", joined, "--csv").stdout == "text,custom_id\nParis\x1b[2J,first\n"
    shown = raybatch("sql", joined).stdout
    assert "Paris" in shown
    assert "\x1b" not in shown


def test_rows_that_a_retry_ran_again_count_once(
    raybatch: Run, home: Home, server: FakeServer, running: ClusterFacts
) -> None:
    tell_log(server)
    failed = replace(ROW, status_code=400, error_code="nope", started_at=500.0)
    far = replace(failed, position=4_000, index=1)
    old = write_part(home.root, "batch_1", "part1", [failed, far])
    new = replace(write_part(home.root, "batch_1", "part2", [replace(failed, attempt=2), far]), round=2)
    redrive = Redrive("batch_1", 2, (RowSpan(0, 1 | 1 << 4_000, 1),))
    rows = BatchRows(replace(BATCH, round=2), (old, new), (redrive,))
    server.answer("GET", "/admin/manifest", manifest_json(rows))
    shown = raybatch("sql", "SELECT index, attempts, epoch(first_at) AS at FROM failed ORDER BY ALL", "--csv")
    assert shown.stdout == "index,attempts,at\n0,2,500.0\n1,1,500.0\n"


def test_files_that_compaction_moved_are_found_by_the_next_manifest(
    raybatch: Run, server: FakeServer, running: ClusterFacts, part: PartFile
) -> None:
    tell_log(server)
    moved = replace(part, path=part.path.replace("part1", "part0"))
    old, new = (manifest_json(BatchRows(BATCH, (found,))) for found in (moved, part))
    server.answer("GET", "/admin/manifest", old, new)
    assert raybatch("sql", "SELECT count(*) AS n FROM results", "--csv").stdout == "n\n1\n"
    server.answer("GET", "/admin/manifest", old)
    result = raybatch("sql", "SELECT 1")
    assert result.exit_code == 1
    assert "part0" in result.stderr


def test_one_batch_can_be_picked(
    raybatch: Run, server: FakeServer, running: ClusterFacts, part: PartFile
) -> None:
    tell_log(server)
    other = BatchRows(replace(BATCH, batch_id="batch_2"), ())
    server.answer("GET", "/admin/manifest", manifest_json(BatchRows(BATCH, (part,)), other))
    counted = raybatch("sql", "SELECT count(*) AS n FROM batches", "--batch", "batch_2", "--csv")
    assert counted.stdout == "n\n1\n"
    unknown = raybatch("sql", "SELECT 1", "--batch", "batch_3")
    assert unknown.exit_code == 1
    assert "batch_3" in unknown.stderr


@pytest.mark.parametrize(
    ("statement", "named"),
    [("SELEC 1", "SELEC"), ("SELECT nothing FROM batches", "nothing"), ("DROP TABLE batches", "reads")],
)
def test_a_wrong_statement_is_answered_with_what_is_wrong(
    raybatch: Run, home: Home, statement: str, named: str
) -> None:
    remember(home, BATCH)
    result = raybatch("sql", statement)
    assert (result.exit_code, result.stdout) == (1, "")
    assert named in result.stderr


def test_columns_of_one_name_are_all_shown(raybatch: Run, home: Home) -> None:
    remember(home, BATCH)
    assert raybatch("sql", "SELECT 1 AS a, 2 AS a", "--csv").stdout == "a,a\n1,2\n"


def test_a_table_too_wide_for_the_screen_becomes_a_block_for_each_row(raybatch: Run, home: Home) -> None:
    remember(home, BATCH)
    wide = raybatch("sql", "SELECT repeat('x', 400) AS a, repeat('y', 400) AS b, 7 AS c").stdout
    assert [line.split() for line in wide.splitlines()] == [
        ["row", "1"],
        ["a", "x" * 400],
        ["b", "y" * 400],
        ["c", "7"],
    ]
    assert raybatch("sql", "SELECT 'p' AS a, 7 AS b").stdout.split() == ["a", "b", "p", "7"]
