"""A directory of the previous version opens, with everything in it; one of a newer version is left alone."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from raybatch.core.changes import BatchCreated
from raybatch.core.invariants import check_invariants
from raybatch.core.state import Image, State
from raybatch.errors import Corrupt, OperatorError
from raybatch.ledger import duckdb_ledger
from raybatch.ledger.contract import SCHEMA_VERSION
from raybatch.ledger.duckdb_ledger import DuckDBLedger
from raybatch.ledger.durable import DurableMemory
from raybatch.ledger.segment import scan, segments
from tests.ledger.history import BATCH, newest, remember, state_after, tick
from tests.ledger.remembered import durable

FIXTURES = Path(__file__).parent / "fixtures"
COMMITS = 12  #: in every fixture: what ``ticks`` gave


@pytest.fixture(params=range(1, SCHEMA_VERSION), ids=lambda version: f"v{version}")
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What the last commit of a version wrote and closed."""
    source = FIXTURES / f"v{request.param}"
    shutil.copytree(source / "journal", tmp_path / "journal")
    (tmp_path / "ledger.duckdb").write_bytes(gzip.decompress((source / "ledger.duckdb.gz").read_bytes()))
    return tmp_path


def test_a_directory_of_an_older_version_opens_and_goes_on_in_this_one(
    old: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), closing(DurableMemory(old)) as memory:
        state = memory.load()
        check_invariants(state)
        assert durable(state) == durable(state_after(COMMITS))
        remember(memory, state, tick(COMMITS + 1))
    assert [path.name for path in old.glob("*older*")]
    assert "of an older version" in caplog.text
    assert "damaged" not in caplog.text
    assert scan(newest(old / "journal")).version == SCHEMA_VERSION
    assert len(segments(old / "journal")) == 2
    with closing(DurableMemory(old)) as memory:
        assert durable(memory.load()) == durable(state_after(COMMITS + 1))


def test_without_its_ledger_it_opens_too(old: Path) -> None:
    (old / "ledger.duckdb").unlink()
    with closing(DurableMemory(old)) as memory:
        assert durable(memory.load()) == durable(state_after(COMMITS))


def test_batches_of_an_older_snapshot_keep_their_order_and_later_ones_come_behind_them() -> None:
    older = [replace(BATCH, batch_id=name, place=0) for name in ("b", "a")]
    state = State()
    state.load(tuple(Image("batches", batch.batch_id, batch) for batch in older))
    state.apply(BatchCreated(replace(BATCH, batch_id="c")))
    assert [(batch.batch_id, batch.place) for batch in state.batches.values()] == [
        ("b", 1),
        ("a", 2),
        ("c", 3),
    ]


def test_an_older_ledger_that_reaches_further_than_the_journal_is_not_set_aside(old: Path) -> None:
    path = newest(old / "journal")
    os.truncate(path, path.stat().st_size - 5)
    with closing(DurableMemory(old)) as memory, pytest.raises(Corrupt, match="raybatch rebuild"):
        memory.load()
    assert not list(old.glob("*older*"))


def test_a_ledger_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    with closing(DurableMemory(tmp_path)) as memory:
        remember(memory, memory.load(), tick(1))
    with closing(duckdb.connect(str(tmp_path / "ledger.duckdb"))) as con:
        con.execute("UPDATE applied SET schema_version = 99")
        con.execute("ALTER TABLE files ADD COLUMN of_tomorrow INTEGER")
    for _ in range(2):
        with pytest.raises(OperatorError, match="newer raybatch"):
            DurableMemory(tmp_path)
    with closing(DuckDBLedger(tmp_path / "ledger.duckdb")) as ledger:
        assert (ledger.seq, ledger.version) == (1, 99)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "ledger.duckdb", "lock", "reserve"]


def test_a_file_made_with_larger_blocks_is_read_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setitem(duckdb_ledger.CONFIG, "default_block_size", "262144")
        with closing(DurableMemory(tmp_path)) as memory:
            remember(memory, memory.load(), tick(1))
    with closing(DurableMemory(tmp_path)) as memory:
        remember(memory, memory.load(), tick(2))
    assert block_bytes(tmp_path / "ledger.duckdb") == 262_144
    with closing(DurableMemory(tmp_path)) as memory:
        assert durable(memory.load()) == durable(state_after(2))


def test_a_new_file_has_small_blocks(tmp_path: Path) -> None:
    DuckDBLedger(tmp_path / "ledger.duckdb").close()
    assert block_bytes(tmp_path / "ledger.duckdb") == duckdb_ledger.BLOCK_BYTES


def block_bytes(path: Path) -> int:
    with closing(duckdb.connect(str(path), read_only=True)) as con:
        con.execute("PRAGMA database_size")
        return int(con.fetchall()[0][2])
