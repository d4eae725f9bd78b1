"""Parts written one behind the other, and everything that may come between them."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from raybatch.config import Home
from raybatch.core.large_upload import LargeUpload
from raybatch.crash_points import crash_point
from raybatch.storage import joined_parts
from raybatch.storage.joined_parts import JOINED
from raybatch.storage.uploads import UploadStore

UPLOAD_ID = "upload_" + "a" * 32


@pytest.fixture
def store(tmp_path: Path) -> UploadStore:
    home = Home(tmp_path / "home")
    home.make()
    store = UploadStore(home.uploads)
    store.create(LargeUpload(UPLOAD_ID, "t", "file-x", "in.jsonl", "batch", 6, 0.0, None))
    return store


@pytest.fixture
def folder(store: UploadStore, tmp_path: Path) -> Path:
    return tmp_path / "home" / "uploads" / UPLOAD_ID


def put(store: UploadStore, content: bytes) -> str:
    with store.part_writer(UPLOAD_ID) as writer:
        for start in range(0, len(content), 2):
            writer.write(content[start : start + 2])
        writer.commit()
    return writer.part_id


def cut_off(store: UploadStore, content: bytes) -> None:
    with suppress(ConnectionError), store.part_writer(UPLOAD_ID) as writer:
        writer.write(content)
        raise ConnectionError


def joined(store: UploadStore, part_ids: Sequence[str]) -> bytes | None:
    with store.joined(UPLOAD_ID, part_ids) as path:
        return None if path is None else path.read_bytes()


def content(store: UploadStore, part_ids: Sequence[str]) -> bytes:
    return b"".join(store.blocks(UPLOAD_ID, part_ids))


def test_parts_that_come_in_turn_are_their_file(store: UploadStore, folder: Path) -> None:
    one, two, three = (put(store, part) for part in (b"abc", b"de", b"fghi"))
    assert joined(store, [one, two, three]) == content(store, [one, two, three]) == b"abcdefghi"
    assert store.parts(UPLOAD_ID) == {one: 3, two: 2, three: 4}
    assert content(store, [three, one]) == b"fghiabc"
    store.remove_parts(UPLOAD_ID)
    assert [path.name for path in folder.iterdir()] == ["upload.json"]


def test_any_other_choice_of_them_is_no_file(store: UploadStore) -> None:
    one, two = put(store, b"abc"), put(store, b"de")
    for other in ([two, one], [one], [two], [one, one], [one, two, two], [one, "part_" + "0" * 32], []):
        assert joined(store, other) is None
    assert joined(store, [one, two]) == b"abcde"


def test_before_the_first_part_there_is_no_file(store: UploadStore) -> None:
    assert joined(store, []) is None


def test_a_first_part_that_is_cut_off_leaves_nothing_and_the_next_begins_anew(
    store: UploadStore, folder: Path
) -> None:
    cut_off(store, b"xyz")
    assert [path.name for path in folder.iterdir()] == ["upload.json"]
    one, two = put(store, b"abc"), put(store, b"de")
    assert joined(store, [one, two]) == b"abcde"


def test_behind_a_part_that_was_cut_off_nothing_is_added(store: UploadStore) -> None:
    """Somebody may have read what it left, so it is never taken back."""
    one = put(store, b"abc")
    cut_off(store, b"xyz")
    two = put(store, b"de")
    assert joined(store, [one, two]) is None
    assert joined(store, [one]) is None
    assert content(store, [one, two]) == b"abcde"
    assert store.parts(UPLOAD_ID) == {one: 3, two: 2}


def test_a_part_sent_again_counts_once_and_takes_its_room_once(store: UploadStore, folder: Path) -> None:
    one = put(store, b"abc")
    assert [put(store, b"abc") for _ in range(4)] == [one] * 4
    assert store.parts(UPLOAD_ID) == {one: 3}
    assert sum(path.stat().st_size for path in folder.iterdir() if path.name != "upload.json") == 9
    assert content(store, [one, one]) == b"abcabc"


def test_of_two_at_once_one_lies_beside(store: UploadStore) -> None:
    with store.part_writer(UPLOAD_ID) as first, store.part_writer(UPLOAD_ID) as second:
        second.write(b"de")
        first.write(b"abc")
        second.commit()
        first.commit()
    assert (first.start, second.start) == (0, None)
    third = put(store, b"f")
    assert content(store, [first.part_id, second.part_id, third]) == b"abcdef"
    assert joined(store, [first.part_id]) == b"abc"


def test_a_file_that_is_still_added_to_is_none_yet(store: UploadStore) -> None:
    one = put(store, b"abc")
    with store.part_writer(UPLOAD_ID) as writer:
        assert writer.start == 3
        assert joined(store, [one]) is None
        with store.joined(UPLOAD_ID, [one]) as path:
            assert path is None


def test_while_the_file_is_taken_and_once_it_has_a_second_name_nothing_is_added(
    store: UploadStore, tmp_path: Path
) -> None:
    one = put(store, b"abc")
    with store.joined(UPLOAD_ID, [one]) as path:
        assert path is not None
        assert put(store, b"while") in store.parts(UPLOAD_ID)
        os.link(path, tmp_path / "second")
    store.remove_parts(UPLOAD_ID)
    one = put(store, b"abc")  # another file of the same name
    with store.joined(UPLOAD_ID, [one]) as path:
        assert path is not None
        os.link(path, tmp_path / "third")
    put(store, b"after")
    assert (tmp_path / "second").read_bytes() == (tmp_path / "third").read_bytes() == b"abc"


@pytest.mark.parametrize("label", ["upload_part.synced"])
def test_a_process_that_dies_before_a_part_counts_leaves_the_others(
    store: UploadStore, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    class Died(BaseException):
        pass

    def dies(passed: str) -> None:
        crash_point(passed)
        if passed == label:
            raise Died

    one = put(store, b"abc")
    with monkeypatch.context() as patched:
        patched.setattr(joined_parts, "crash_point", dies)
        with suppress(Died):
            put(store, b"de")
    assert store.parts(UPLOAD_ID) == {one: 3}
    two = put(store, b"de")
    assert content(store, [one, two]) == b"abcde"


def test_a_disk_that_fills_up_in_the_middle_costs_that_part_alone(
    store: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = put(store, b"abc")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            put(store, b"de")
    assert store.parts(UPLOAD_ID) == {one: 3}
    assert content(store, [one, put(store, b"de")]) == b"abcde"


def test_its_name_is_no_part(folder: Path, store: UploadStore) -> None:
    put(store, b"abc")
    assert (folder / JOINED).exists()
    assert list(store.parts(UPLOAD_ID).values()) == [3]
