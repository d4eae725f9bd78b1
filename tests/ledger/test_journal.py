"""The journal loses nothing that was acknowledged, and says where it is damaged instead of guessing."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from raybatch.errors import Corrupt, DiskFull, OperatorError
from raybatch.ledger import segment
from raybatch.ledger.journal import Journal
from tests.ledger.history import journal_of, newest, replayed, state_after, tick
from tests.ledger.remembered import durable


def test_what_was_appended_is_replayed(tmp_path: Path) -> None:
    journal_of(tmp_path, 8)
    assert durable(replayed(tmp_path)) == durable(state_after(8))


def test_a_tail_torn_at_any_byte_is_cut_off_when_the_ledger_ends_before_it(tmp_path: Path) -> None:
    ends = journal_of(tmp_path, 5)
    path = newest(tmp_path)
    whole = path.read_bytes()
    for cut in range(ends[-2], ends[-1]):
        path.write_bytes(whole[:cut])
        with closing(Journal(tmp_path)) as journal:
            journal.settle(4)
            assert journal.last_seq == 4
        assert path.stat().st_size == ends[-2], f"cut at {cut}"
    assert durable(replayed(tmp_path)) == durable(state_after(4))


@pytest.mark.parametrize("kept_pages", [(), (0,), (2,), (0, 2)])
def test_a_last_record_of_which_a_power_cut_kept_any_pages_is_cut_off_too(
    tmp_path: Path, kept_pages: tuple[int, ...]
) -> None:
    ends = journal_of(tmp_path, 5)
    path = newest(tmp_path)
    last = path.read_bytes()[ends[-2] :]
    page_bytes = len(last) // 3
    pages = [last[start : start + page_bytes] for start in range(0, len(last), page_bytes)]
    kept = [page if number in kept_pages else bytes(len(page)) for number, page in enumerate(pages)]
    path.write_bytes(path.read_bytes()[: ends[-2]] + b"".join(kept))
    with closing(Journal(tmp_path)) as journal:
        journal.settle(4)
        journal.append(5, tick(5), 5.0)
    assert durable(replayed(tmp_path)) == durable(state_after(5))


@pytest.mark.parametrize("ledger_seq", [0, 3, 5])
def test_a_torn_tail_is_refused_and_kept_unless_the_ledger_ends_exactly_before_it(
    tmp_path: Path, ledger_seq: int
) -> None:
    ends = journal_of(tmp_path, 5)
    path = newest(tmp_path)
    os.truncate(path, ends[-1] - 3)
    with closing(Journal(tmp_path)) as journal, pytest.raises(Corrupt, match="raybatch rebuild"):
        journal.settle(ledger_seq)
    assert path.stat().st_size == ends[-1] - 3


def test_a_flipped_byte_in_what_the_ledger_has_is_refused_with_the_file_and_the_place(tmp_path: Path) -> None:
    ends = journal_of(tmp_path, 3)
    path = newest(tmp_path)
    whole = path.read_bytes()
    starts = [0, *ends[:-1]]
    for place in sorted({*range(0, len(whole), 7), *starts, *(end - 1 for end in ends)}):
        harmed = bytearray(whole)
        harmed[place] ^= 0x01
        path.write_bytes(harmed)
        record = max(start for start in starts if start <= place)
        with closing(Journal(tmp_path)) as journal, pytest.raises(Corrupt, match="raybatch rebuild"):
            journal.settle(3)
        assert f"the record at byte {record} is damaged" in segment.scan(path).damage, f"flipped at {place}"
        assert path.read_bytes() == harmed


def test_a_whole_record_behind_a_damaged_one_shows_that_it_was_acknowledged(tmp_path: Path) -> None:
    ends = journal_of(tmp_path, 5)
    harmed = bytearray(newest(tmp_path).read_bytes())
    harmed[ends[2] + 20] ^= 0x01
    newest(tmp_path).write_bytes(harmed)
    with closing(Journal(tmp_path)) as journal, pytest.raises(Corrupt, match="2 whole records follow"):
        journal.settle(2)


@pytest.mark.parametrize("kept_bytes", [0, 1, 40])
def test_a_segment_cut_within_its_snapshot_is_refused(tmp_path: Path, kept_bytes: int) -> None:
    journal_of(tmp_path, 3)
    os.truncate(newest(tmp_path), kept_bytes)
    for ledger_seq in (0, 3):
        with closing(Journal(tmp_path)) as journal, pytest.raises(Corrupt, match="raybatch rebuild"):
            journal.settle(ledger_seq)


def test_segments_rotate_and_either_of_the_two_that_are_kept_leads_to_the_same_state(tmp_path: Path) -> None:
    journal_of(tmp_path, 20, segment_bytes_max=600)
    older, newer = map(segment.scan, segment.segments(tmp_path))
    assert 0 < older.lines[0].seq < older.lines[-1].seq == newer.lines[0].seq <= 20
    assert durable(replayed(tmp_path)) == durable(state_after(20))


def test_a_large_snapshot_alone_is_no_reason_for_another_segment(tmp_path: Path) -> None:
    with closing(Journal(tmp_path, segment_bytes_max=600)) as journal:
        journal.start_segment(30, state_after(30).images(), 0.0)
        assert newest(tmp_path).stat().st_size > 600
        assert not journal.wants_segment
    assert not Journal(tmp_path, segment_bytes_max=600).wants_segment


def test_a_record_missing_in_the_middle_is_noticed(tmp_path: Path) -> None:
    journal_of(tmp_path, 5)
    lines = newest(tmp_path).read_bytes().splitlines(keepends=True)
    newest(tmp_path).write_bytes(b"".join([*lines[:3], *lines[4:]]))
    with closing(Journal(tmp_path)) as journal, pytest.raises(Corrupt, match="2 whole records follow"):
        journal.settle(2)


def test_a_full_disk_leaves_the_journal_as_it_was_and_the_same_append_succeeds_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = journal_of(tmp_path, 4)
    with closing(Journal(tmp_path)) as journal:
        journal.settle(4)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", failing(errno.ENOSPC))
            with pytest.raises(DiskFull, match="no space left for the journal"):
                journal.append(5, tick(5), 5.0)
        assert newest(tmp_path).stat().st_size == ends[-1]
        journal.append(5, tick(5), 5.0)
    assert durable(replayed(tmp_path)) == durable(state_after(5))


def test_a_full_disk_starts_no_segment_and_keeps_the_open_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal_of(tmp_path, 4)
    with closing(Journal(tmp_path)) as journal:
        journal.settle(4)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", failing(errno.ENOSPC))
            with pytest.raises(DiskFull):
                journal.start_segment(4, state_after(4).images(), 0.0)
        assert [path.suffix for path in tmp_path.iterdir()] == [".journal"]
        journal.append(5, tick(5), 5.0)
    assert durable(replayed(tmp_path)) == durable(state_after(5))


def test_after_a_failed_fsync_nothing_is_appended_and_the_next_start_writes_the_record_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = journal_of(tmp_path, 4)
    journal = Journal(tmp_path)
    journal.settle(4)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(OSError, match="EIO"):
            journal.append(5, tick(5), 5.0)
    with pytest.raises(AssertionError):
        journal.append(5, tick(5), 5.0)
    written: list[int] = []
    monkeypatch.setattr(os, "pwrite", lambda _, line, start: written.append(start) or len(line))
    with closing(Journal(tmp_path)) as again:
        again.settle(4)
        assert again.last_seq == 5
    assert written == [ends[-1]]


def test_a_journal_of_a_newer_version_is_refused_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(segment, "SCHEMA_VERSION", 99)
        journal_of(tmp_path, 3)
    before = newest(tmp_path).read_bytes()
    with pytest.raises(OperatorError, match=r"newer raybatch \(schema 99"):
        Journal(tmp_path)
    assert newest(tmp_path).read_bytes() == before


def failing(number: int) -> Any:
    def fail(*_: Any) -> None:
        raise OSError(number, errno.errorcode[number])

    return fail
