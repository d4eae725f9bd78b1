"""The journal loses nothing that was acknowledged, and says where it is damaged instead of guessing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from raybatch.errors import Corrupt, DiskFull
from raybatch.ledger.journal import Journal
from tests.ledger.history import journal_of, newest, replayed, state_after, ticks
from tests.simulation.world import durable


def test_what_was_appended_is_replayed(tmp_path: Path) -> None:
    journal_of(tmp_path, 8)
    assert durable(replayed(tmp_path)) == durable(state_after(8))


def test_a_tail_torn_at_any_byte_is_cut_off_and_the_rest_kept(tmp_path: Path) -> None:
    ends = journal_of(tmp_path, 5)
    path = newest(tmp_path)
    whole = path.read_bytes()
    for cut in range(ends[-2], ends[-1]):
        path.write_bytes(whole[:cut])
        journal = Journal(tmp_path)
        assert journal.last_seq == 4
        journal.close()
        assert path.stat().st_size == ends[-2], f"cut at {cut}"
    assert durable(replayed(tmp_path)) == durable(state_after(4))


def test_the_torn_tick_can_be_appended_again(tmp_path: Path) -> None:
    journal_of(tmp_path, 5)
    path = newest(tmp_path)
    os.truncate(path, path.stat().st_size - 3)
    journal = Journal(tmp_path)
    journal.append(5, [changes for _, changes in zip(range(5), ticks(), strict=False)][-1], 5.0)
    journal.close()
    assert durable(replayed(tmp_path)) == durable(state_after(5))


def test_a_flipped_byte_is_refused_with_the_file_and_the_place(tmp_path: Path) -> None:
    ends = journal_of(tmp_path, 3)
    path = newest(tmp_path)
    whole = path.read_bytes()
    starts = [0, *ends[:-1]]
    for place in sorted({*range(0, len(whole), 7), *starts, *(end - 1 for end in ends)}):
        harmed = bytearray(whole)
        harmed[place] ^= 0x01
        path.write_bytes(harmed)
        record = max(start for start in starts if start <= place)
        with pytest.raises(Corrupt) as refused:
            Journal(tmp_path)
        assert f"{path}: the record at byte {record} " in refused.value.message, f"flipped at {place}"


@pytest.mark.parametrize("kept_bytes", [0, 1, 40])
def test_a_segment_cut_within_its_snapshot_is_refused(tmp_path: Path, kept_bytes: int) -> None:
    journal_of(tmp_path, 3)
    os.truncate(newest(tmp_path), kept_bytes)
    with pytest.raises(Corrupt, match="the snapshot at byte 0 is cut short"):
        Journal(tmp_path)


def test_segments_rotate_keep_two_and_replay_to_the_same_state(tmp_path: Path) -> None:
    journal_of(tmp_path, 20, segment_bytes_max=600)
    segments = sorted(tmp_path.iterdir())
    assert len(segments) == 2
    first_seq = int(segments[0].stem)
    assert 0 < first_seq < 20
    assert durable(replayed(tmp_path)) == durable(state_after(20))


def test_replay_starts_behind_any_commit_the_kept_segments_reach_back_to(tmp_path: Path) -> None:
    journal_of(tmp_path, 20, segment_bytes_max=600)
    journal = Journal(tmp_path)
    journal.close()
    for after_seq in range(journal.first_seq, 21):
        state = state_after(after_seq)
        for record in journal.replay(after_seq):
            assert record.snapshot is None
            for change in record.changes:
                state.apply(change)
        assert durable(state) == durable(state_after(20)), f"after {after_seq}"


def test_a_large_snapshot_alone_is_no_reason_for_another_segment(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes_max=600)
    journal.start_segment(30, state_after(30).images(), 0.0)
    assert newest(tmp_path).stat().st_size > 600
    assert not journal.wants_segment
    journal.close()
    again = Journal(tmp_path, segment_bytes_max=600)
    assert not again.wants_segment
    again.close()


@pytest.mark.parametrize("snapshot_alone", [False, True])
def test_records_missing_between_two_segments_are_noticed(tmp_path: Path, snapshot_alone: bool) -> None:
    journal_of(tmp_path, 20, segment_bytes_max=600)
    older = min(tmp_path.iterdir())
    lines = older.read_bytes().splitlines(keepends=True)
    older.write_bytes(b"".join(lines[:-1]))
    if snapshot_alone:
        newest(tmp_path).write_bytes(newest(tmp_path).read_bytes().splitlines(keepends=True)[0])
    journal = Journal(tmp_path)
    with pytest.raises(Corrupt, match="records are missing"):
        list(journal.replay(int(older.stem)))
    journal.close()


def test_a_full_disk_leaves_the_journal_as_it_was_and_the_same_append_succeeds_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = journal_of(tmp_path, 4)
    changes = [changes for _, changes in zip(range(5), ticks(), strict=False)][-1]
    journal = Journal(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", no_space)
        with pytest.raises(DiskFull, match="no space left for the journal"):
            journal.append(5, changes, 5.0)
    assert newest(tmp_path).stat().st_size == ends[-1]
    journal.append(5, changes, 5.0)
    journal.close()
    assert durable(replayed(tmp_path)) == durable(state_after(5))


def test_a_full_disk_at_a_rotation_keeps_the_open_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal_of(tmp_path, 4)
    journal = Journal(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", no_space)
        with pytest.raises(DiskFull):
            journal.start_segment(4, state_after(4).images(), 0.0)
    assert [path.suffix for path in tmp_path.iterdir()] == [".journal"]
    journal.append(5, [changes for _, changes in zip(range(5), ticks(), strict=False)][-1], 5.0)
    journal.close()
    assert durable(replayed(tmp_path)) == durable(state_after(5))


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
