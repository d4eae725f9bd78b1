"""What can be made whole again is, without loss where anything still knows it; a loss is named first."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from raybatch.core.state import State
from raybatch.errors import Corrupt, InUse
from raybatch.ledger.durable import DurableMemory
from raybatch.ledger.journal import Journal
from raybatch.ledger.rebuild import peek, rebuild, recover
from raybatch.ledger.segment import scan, segments
from tests.ledger.history import newest, remember, state_after, tick, ticks
from tests.ledger.remembered import durable

COMMITS = 22


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two segments: the newest begins with a snapshot, and has some ticks behind it."""
    monkeypatch.setattr(Journal.__init__, "__defaults__", (4_000,))
    with closing(DurableMemory(tmp_path)) as memory:
        state = memory.load()
        for _, changes in zip(range(COMMITS), ticks(), strict=False):
            remember(memory, state, changes)
    older, newer = map(scan, segments(tmp_path / "journal"))
    assert older.lines[-1].seq == newer.lines[0].seq < COMMITS - 3
    return tmp_path


def harm(directory: Path, line: int) -> None:
    """A byte in the middle of a record of the newest segment."""
    found = scan(newest(directory / "journal")).lines[line]
    harmed = bytearray(found.path.read_bytes())
    harmed[found.start + found.size_bytes // 2] ^= 0x04
    found.path.write_bytes(harmed)


def forget_ledger(directory: Path) -> None:
    (directory / "ledger.duckdb").unlink()


def made_again(directory: Path) -> State:
    state = rebuild(directory, recover(directory))
    with closing(DurableMemory(directory)) as memory:
        again = memory.load()
        assert durable(again) == durable(state)
        remember(memory, again, tick(memory.seq + 1))
    return state


HARM: dict[str, Callable[[Path], None]] = {
    "nothing": lambda _: None,
    "the ledger gone": forget_ledger,
    "the newest snapshot": lambda directory: harm(directory, 0),
    "a record in the middle": lambda directory: harm(directory, 2),
    "the last record": lambda directory: harm(directory, -1),
    "the journal gone": lambda directory: [path.unlink() for path in segments(directory / "journal")],
    "the newest segment gone": lambda directory: newest(directory / "journal").unlink(),
    "the newest segment cut": lambda directory: os.truncate(newest(directory / "journal"), 100),
    "the older segment": lambda directory: os.truncate(segments(directory / "journal")[0], 100),
}


@pytest.mark.parametrize("what", HARM)
def test_one_harm_costs_nothing(directory: Path, what: str) -> None:
    HARM[what](directory)
    recovered = recover(directory)
    assert (recovered.seq, recovered.lost) == (COMMITS, None)
    assert durable(made_again(directory)) == durable(state_after(COMMITS))


def test_a_harmed_newest_snapshot_and_no_ledger_cost_nothing_as_the_older_segment_leads_there(
    directory: Path,
) -> None:
    harm(directory, 0)
    forget_ledger(directory)
    assert recover(directory).lost is None
    assert durable(made_again(directory)) == durable(state_after(COMMITS))


@pytest.mark.parametrize("line", [2, -1])
def test_a_loss_is_named_before_anything_is_changed(directory: Path, line: int) -> None:
    lost_from = scan(newest(directory / "journal")).lines[line].seq
    harm(directory, line)
    forget_ledger(directory)
    before = {path: path.read_bytes() for path in segments(directory / "journal")}
    recovered = recover(directory)
    assert recovered.seq == lost_from - 1
    assert recovered.lost is not None
    assert "everything remembered after 1970-01-01 00:00:01 UTC" in recovered.lost
    assert {path: path.read_bytes() for path in segments(directory / "journal")} == before
    assert durable(made_again(directory)) == durable(state_after(lost_from - 1))
    kept = {path.read_bytes() for path in (directory / "journal").glob("*.damaged-*")}
    assert kept == set(before.values())


def test_nothing_left_is_said(directory: Path) -> None:
    forget_ledger(directory)
    for path in segments(directory / "journal"):
        os.truncate(path, 10)
    with pytest.raises(Corrupt, match="raybatch restore"):
        recover(directory)


def test_while_another_has_it_open_it_is_left_alone_and_can_be_peeked_at(directory: Path) -> None:
    with closing(DurableMemory(directory)) as memory:
        state = memory.load()
        with pytest.raises(InUse):
            recover(directory)
        remember(memory, state, tick(COMMITS + 1))
        with newest(directory / "journal").open("ab") as appending:
            appending.write(b"deadbeef 100 half of what is being appen")
        seq, peeked = peek(directory)
    assert (seq, durable(peeked)) == (COMMITS + 1, durable(state_after(COMMITS + 1)))


def test_a_damaged_journal_is_not_peeked_at(directory: Path) -> None:
    harm(directory, -1)
    with pytest.raises(Corrupt, match="raybatch rebuild"):
        peek(directory)
