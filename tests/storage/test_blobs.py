from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

import pytest

from raybatch.errors import NotFound, RaybatchError
from raybatch.storage.atomic import atomic_file
from raybatch.storage.blobs import BlobStore

CONTENT = bytes(range(256)) * 20


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path / "blobs")
    put(store, "file-one", CONTENT)
    return store


def put(store: BlobStore, file_id: str, content: bytes) -> None:
    with store.writer(file_id) as writer:
        writer.write(content)
        writer.commit()


def names(store: BlobStore) -> list[str]:
    return sorted(path.name for path in store.path("file-x").parent.iterdir())


def test_a_committed_upload_reads_back_with_its_size_and_digest(store: BlobStore) -> None:
    with store.writer("file-two") as writer:
        writer.write(b"ab")
        writer.write(b"c")
        assert names(store)[-1] == "file-one", "nothing is visible before the commit"
        assert writer.commit() == (3, hashlib.sha256(b"abc").hexdigest())
    assert b"".join(store.chunks("file-two")) == b"abc"
    assert names(store) == ["file-one", "file-two"]


def test_an_uncommitted_upload_leaves_nothing(store: BlobStore) -> None:
    with store.writer("file-two") as writer:
        writer.write(b"abc")
    with suppress(ConnectionError), store.writer("file-three") as writer:
        writer.write(b"abc")
        raise ConnectionError
    assert names(store) == ["file-one"]


def test_a_second_commit_is_refused(store: BlobStore) -> None:
    with store.writer("file-two") as writer:
        writer.commit()
        with pytest.raises(RaybatchError, match="already committed"):
            writer.commit()


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (10, 20), (5, 5), (0, 10**9), (len(CONTENT) + 1, None), (100, 3_000)]
)
@pytest.mark.parametrize("read_bytes", [1, 7, 1 << 20])
def test_a_range_is_the_same_whatever_the_block_size(
    store: BlobStore, start: int, stop: int | None, read_bytes: int
) -> None:
    blocks = list(store.chunks("file-one", start, stop, read_bytes))
    assert b"".join(blocks) == CONTENT[start:stop]
    assert all(0 < len(block) <= read_bytes for block in blocks)


@pytest.mark.parametrize(
    "file_id", ["", "file-", "../file-a", "file-a/../b", "file-a\n", "file-ä", ".tmp-1", "file-a\0"]
)
def test_an_id_cannot_name_another_path(store: BlobStore, file_id: str) -> None:
    with pytest.raises(NotFound):
        store.path(file_id)
    with pytest.raises(NotFound):
        store.writer(file_id)


def test_an_unknown_blob_is_not_found_and_may_be_removed(store: BlobStore) -> None:
    with pytest.raises(NotFound, match="file-none"):
        next(store.chunks("file-none"))
    store.remove("file-none")
    store.remove("file-one")
    assert names(store) == []


def test_orphans_are_what_nobody_keeps_and_unfinished_uploads(store: BlobStore, tmp_path: Path) -> None:
    put(store, "file-two", b"")
    (tmp_path / "blobs" / ".tmp-left").write_bytes(b"half")
    (tmp_path / "blobs" / "README").write_bytes(b"not ours")
    orphans = store.orphans(lambda file_id: file_id == "file-one", before=time.time() + 60)
    assert [path.name for path in orphans] == [".tmp-left", "file-two"]
    assert store.orphans(lambda _: False, before=time.time() - 60) == []


def test_a_failed_atomic_write_keeps_the_old_file(tmp_path: Path) -> None:
    final = tmp_path / "state"
    final.write_text("old")
    with suppress(OSError), atomic_file(final) as temporary:
        temporary.write_text("half of the n")
        raise OSError("disk full")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert final.read_text() == "old"
    with atomic_file(final) as temporary:
        temporary.write_text("new")
        assert final.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert final.read_text() == "new"
