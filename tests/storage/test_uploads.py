from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from raybatch.actors.reads import Remembered
from raybatch.actors.sweep import kept, orphans, sweep
from raybatch.config import Home
from raybatch.core.large_upload import UPLOAD_LIFE_S, LargeUpload, UploadStatus
from raybatch.core.model import File
from raybatch.errors import Corrupt, NotFound
from raybatch.storage.uploads import LATE_S, UploadStore

OLD_S = UPLOAD_LIFE_S + LATE_S + 60.0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    return home


@pytest.fixture
def store(home: Home) -> UploadStore:
    return UploadStore(home.uploads)


def upload(letter: str = "a", age_s: float = 0.0) -> LargeUpload:
    created_at = time.time() - age_s
    return LargeUpload(f"upload_{letter * 32}", "t", "file-x", "in.jsonl", "batch", 6, created_at, 7200)


def put(store: UploadStore, upload_id: str, content: bytes) -> str:
    with store.part_writer(upload_id) as writer:
        writer.write(content)
        writer.commit()
    return writer.part_id


def names(home: Home) -> set[str]:
    return {str(path.relative_to(home.uploads)) for path in home.uploads.rglob("*")}


def test_a_record_reads_back_as_it_was_saved_last(store: UploadStore) -> None:
    first = upload()
    store.create(first)
    assert store.load(first.upload_id) == first
    file = File("file-x", "t", "batch", "in.jsonl", 6, 3.0, "00", lines=1)
    last = LargeUpload(*[getattr(first, name) for name in first.__slots__[:8]], ("part_1",), file)
    store.save(last)
    assert store.load(first.upload_id) == last


def test_a_status_follows_from_what_happened_and_else_from_the_clock() -> None:
    pending = upload()
    assert pending.status(pending.expires_at - 1) is UploadStatus.PENDING
    assert pending.status(pending.expires_at) is UploadStatus.EXPIRED


def test_parts_read_back_in_any_order_and_one_sent_again_is_the_same(store: UploadStore) -> None:
    one, other = upload("a"), upload("b")
    for made in (one, other):
        store.create(made)
    ids = [put(store, one.upload_id, content) for content in (b"abc", b"", b"de", b"abc")]
    assert store.parts(one.upload_id) == {ids[0]: 3, ids[1]: 0, ids[2]: 2}
    assert ids[3] == ids[0] != put(store, other.upload_id, b"abc")
    assert b"".join(store.blocks(one.upload_id, [ids[2], ids[0], ids[2]])) == b"deabcde"
    store.remove_parts(one.upload_id)
    assert store.parts(one.upload_id) == {}


def test_a_part_that_was_not_committed_leaves_nothing(store: UploadStore, home: Home) -> None:
    store.create(upload())
    before = names(home)
    with suppress(ConnectionError), store.part_writer(upload().upload_id) as writer:
        writer.write(b"abc")
        raise ConnectionError
    assert names(home) == before


def test_only_one_holds_an_upload_at_a_time(store: UploadStore) -> None:
    one, other = upload("a"), upload("b")
    for made in (one, other):
        store.create(made)
    held = store.held
    with held(one.upload_id) as mine, held(one.upload_id) as twice, held(other.upload_id) as beside:
        assert (mine, twice, beside) == (True, False, True)
    with store.held(one.upload_id) as again:
        assert again


@pytest.mark.parametrize("upload_id", ["", "upload_", "../files", "upload_" + "0" * 32, "upload_" + "g" * 32])
def test_an_id_that_is_none_names_nothing(store: UploadStore, upload_id: str) -> None:
    for ask in (store.load, store.remove_parts, store.parts):
        with pytest.raises((NotFound, FileNotFoundError)):
            ask(upload_id)
    with pytest.raises(NotFound), store.held(upload_id):
        pass


def test_a_record_that_is_damaged_is_said_to_be(store: UploadStore, home: Home) -> None:
    store.create(upload())
    (home.uploads / upload().upload_id / "upload.json").write_bytes(b"{")
    with pytest.raises(Corrupt, match=r"upload\.json"):
        store.load(upload().upload_id)


def test_a_sweep_takes_uploads_whose_time_is_over_with_all_that_is_in_them(
    store: UploadStore, home: Home
) -> None:
    assert list(orphans(home, kept(Remembered()), time.time())) == []  # before the first of them
    young, old, empty, damaged = (
        upload("a", UPLOAD_LIFE_S + 60.0),
        upload("b", OLD_S),
        upload("c"),
        upload("d"),
    )
    for made in (young, old, empty, damaged):
        store.create(made)
        put(store, made.upload_id, b"abc")
    (home.uploads / old.upload_id / ".tmp-left").write_bytes(b"half")
    (home.uploads / ".tmp-removed" / "part_x").parent.mkdir()
    (home.uploads / ".tmp-removed" / "part_x").write_bytes(b"half")
    (home.uploads / empty.upload_id / "upload.json").unlink()
    (home.uploads / damaged.upload_id / "upload.json").write_bytes(b"{")
    for made in (empty, damaged):
        os.utime(home.uploads / made.upload_id, (time.time() - OLD_S,) * 2)
    (home.uploads / "README").write_bytes(b"not ours")
    of_young = {name for name in names(home) if name.startswith((young.upload_id, "README"))}
    found = {str(path.relative_to(home.uploads)) for path in orphans(home, kept(Remembered()), time.time())}

    sweep(home, kept(Remembered()), time.time())

    assert names(home) == of_young
    assert found.isdisjoint(of_young)
    assert {"part_x", ".tmp-left", "upload.json"} <= {name.rpartition("/")[2] for name in found}
