"""Journal and ledger together: whatever one of them loses the other brings back, or the start is refused."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from raybatch.core.invariants import check_invariants
from raybatch.core.state import State
from raybatch.errors import Corrupt, DiskFull
from raybatch.ledger.duckdb_ledger import DuckDBLedger
from raybatch.ledger.durable import DurableMemory
from raybatch.ledger.journal import Journal
from tests.ledger.history import applied, newest, remember, state_after, ticks
from tests.ledger.remembered import durable

COMMITS = 12


def fill(directory: Path, count: int = COMMITS) -> State:
    with closing(DurableMemory(directory)) as memory:
        state = memory.load()
        for _, changes in zip(range(count), ticks(), strict=False):
            remember(memory, state, changes)
    return state


def reloaded(directory: Path) -> State:
    """As a start finds it; and the ledger then holds the same by itself."""
    with closing(DurableMemory(directory)) as memory:
        state = memory.load()
    check_invariants(state)
    with closing(DuckDBLedger(directory / "ledger.duckdb")) as ledger:
        alone = State()
        alone.load(ledger.load().images)
    assert durable(alone) == durable(state)
    return state


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a killed process leaves: a ledger with a WAL that was never written into the file."""
    directory = tmp_path_factory.mktemp("crashed")
    child = committing(directory)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) == COMMITS:
            break
    child.kill()
    child.communicate()
    return directory


@pytest.fixture
def home(crashed: Path, tmp_path: Path) -> Path:
    shutil.copytree(crashed, tmp_path / "ledger")
    return tmp_path / "ledger"


def committing(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.ledger.commits", str(directory)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


def commits_in(state: State) -> int:
    """Two ticks make the batch, each further one a part."""
    return 2 + len(state.parts["batch_1"])


def test_a_restart_brings_the_same_state(tmp_path: Path) -> None:
    state = fill(tmp_path)
    assert durable(reloaded(tmp_path)) == durable(state) == durable(state_after(COMMITS))


def test_everything_acknowledged_before_a_kill_is_there_again(home: Path) -> None:
    found = commits_in(reloaded(home))
    assert found in (COMMITS, COMMITS + 1, COMMITS + 2)  # the kill may come a commit late
    assert durable(reloaded(home)) == durable(state_after(found))


def test_a_killed_process_can_be_followed_by_another_again_and_again(tmp_path: Path) -> None:
    acknowledged = 0
    for _ in range(3):
        with closing(DurableMemory(tmp_path)) as memory:
            state = memory.load()
            begun = commits_in(state) if state.batches else 0
        assert begun >= acknowledged
        assert durable(state) == durable(state_after(begun))
        child = subprocess.Popen(
            [sys.executable, "-c", RESUMED, str(tmp_path), str(begun)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for line in child.stdout:
            acknowledged = int(line)
            if acknowledged == begun + 5:
                break
        child.kill()
        rest, _ = child.communicate()
        acknowledged = max([acknowledged, *map(int, rest.split())])


RESUMED = """
import sys
from itertools import islice
from pathlib import Path
from raybatch.ledger.durable import DurableMemory
from tests.ledger.history import remember, ticks

memory = DurableMemory(Path(sys.argv[1]))
state = memory.load()
begun = int(sys.argv[2])
for seq, changes in enumerate(islice(ticks(), begun, None), start=begun + 1):
    remember(memory, state, changes)
    print(seq, flush=True)
"""


@pytest.mark.parametrize(
    "lost", [("ledger.duckdb",), ("ledger.duckdb.wal",), ("ledger.duckdb", "ledger.duckdb.wal")]
)
def test_a_deleted_ledger_is_made_again_from_the_journal(home: Path, lost: tuple[str, ...]) -> None:
    for name in lost:
        (home / name).unlink()
    state = reloaded(home)
    assert durable(state) == durable(state_after(commits_in(state)))
    assert commits_in(state) >= COMMITS


def test_a_wal_cut_anywhere_is_made_whole_from_the_journal(home: Path, tmp_path: Path) -> None:
    size_bytes = (home / "ledger.duckdb.wal").stat().st_size
    for cut in range(0, size_bytes, max(1, size_bytes // 8)):
        directory = tmp_path / f"cut_{cut}"
        shutil.copytree(home, directory)
        with (directory / "ledger.duckdb.wal").open("r+b") as wal:
            wal.truncate(cut)
        state = reloaded(directory)
        assert commits_in(state) >= COMMITS, f"cut at {cut}"
        assert durable(state) == durable(state_after(commits_in(state))), f"cut at {cut}"


def test_a_harmed_ledger_file_is_set_aside_and_made_again(tmp_path: Path) -> None:
    directory = tmp_path / "a block of clocks"  # names that a search for "lock" would find
    state = fill(directory)
    path = directory / "ledger.duckdb"
    harmed = bytearray(path.read_bytes())
    harmed[:4096] = b"\xff" * 4096
    path.write_bytes(harmed)
    assert durable(reloaded(directory)) == durable(state)
    (aside,) = directory.glob("ledger.duckdb.damaged-*")
    assert aside.read_bytes() == bytes(harmed)


def test_a_ledger_from_before_the_journal_begins_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 3)
    shutil.copy(tmp_path / "ledger.duckdb", tmp_path / "old")
    monkeypatch.setattr(Journal.__init__, "__defaults__", (600,))
    with closing(DurableMemory(tmp_path)) as memory:
        state = memory.load()
        for number, changes in zip(range(20), ticks(), strict=False):
            if number >= 3:
                remember(memory, state, changes)
    shutil.copy(tmp_path / "old", tmp_path / "ledger.duckdb")
    assert durable(reloaded(tmp_path)) == durable(state) == durable(state_after(20))
    assert list(tmp_path.glob("ledger.duckdb.damaged-*"))


@pytest.mark.parametrize("damage", ["a record", "all of it"])
def test_a_journal_that_ends_before_the_ledger_is_refused(tmp_path: Path, damage: str) -> None:
    fill(tmp_path)
    if damage == "all of it":
        shutil.rmtree(tmp_path / "journal")
    else:
        path = newest(tmp_path / "journal")
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    for _ in range(2):  # a start that is refused changes nothing
        with closing(DurableMemory(tmp_path)) as memory, pytest.raises(Corrupt, match="raybatch rebuild"):
            memory.load()


@pytest.mark.parametrize("place", ["journal", "ledger", "both"])
def test_the_same_tick_succeeds_once_there_is_space_with_nothing_lost_or_doubled(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(DurableMemory(tmp_path)) as memory:
        state = memory.load()
        for number, changes in zip(range(COMMITS), ticks(), strict=False):
            images = applied(state, changes)
            if number % 4 == 3:
                if place != "ledger":
                    with monkeypatch.context() as patch:
                        patch.setattr(os, "fdatasync", no_space)
                        with pytest.raises(DiskFull):
                            memory.remember(changes, images, 1.0)
                if place != "journal":
                    with monkeypatch.context() as patch:
                        patch.setattr(DuckDBLedger, "commit", ledger_full)
                        for _ in range(2):
                            with pytest.raises(DiskFull):
                                memory.remember(changes, images, 1.0)
                assert not (tmp_path / "reserve").exists()
            memory.remember(changes, images, 1.0)
            memory.keep_house(state, 1.0)
            assert (tmp_path / "reserve").exists()
    assert durable(reloaded(tmp_path)) == durable(state_after(COMMITS))
    (tmp_path / "ledger.duckdb").unlink()
    assert durable(reloaded(tmp_path)) == durable(state_after(COMMITS))


def test_a_tick_that_only_the_journal_has_is_committed_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(DurableMemory(tmp_path)) as memory:
        state = memory.load()
        for number, changes in zip(range(COMMITS), ticks(), strict=False):
            if number == COMMITS - 1:
                monkeypatch.setattr(DuckDBLedger, "commit", ledger_full)
                with pytest.raises(DiskFull):
                    remember(memory, state, changes)
            else:
                remember(memory, state, changes)
    monkeypatch.undo()
    assert durable(reloaded(tmp_path)) == durable(state_after(COMMITS))


@pytest.mark.parametrize("harm", ["swapped", "forgotten", "doubled"])
def test_a_ledger_that_can_be_read_and_tells_something_else_is_found_and_made_again(
    tmp_path: Path, harm: str
) -> None:
    state = fill(tmp_path)
    with closing(duckdb.connect(str(tmp_path / "ledger.duckdb"))) as con:
        con.execute(
            {
                "swapped": "UPDATE parts SET rows = 5 WHERE part_id = 'p3'",
                "forgotten": "DELETE FROM parts WHERE part_id = 'p3'",
                "doubled": "UPDATE batches SET completed = completed + 1",
            }[harm]
        )
    assert durable(reloaded(tmp_path)) == durable(state)
    assert list(tmp_path.glob("ledger.duckdb.damaged-*"))


def test_a_second_process_is_kept_off_ledger_and_journal(tmp_path: Path) -> None:
    with closing(DurableMemory(tmp_path)) as memory:
        state = memory.load()
        remember(memory, state, next(ticks()))
        path = newest(tmp_path / "journal")
        with path.open("ab") as torn:
            torn.write(b"half a record of the running process")
        before = path.read_bytes()
        second = subprocess.run(
            [sys.executable, "-m", "tests.ledger.commits", str(tmp_path)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (second.returncode, second.stdout) == (1, "")
        assert "is open in another process" in second.stderr
        assert path.read_bytes() == before
        assert list(tmp_path.glob("*.damaged-*")) == []


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def ledger_full(*_: Any) -> None:
    raise DiskFull("no space left for the ledger")
