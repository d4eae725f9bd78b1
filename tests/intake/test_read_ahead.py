"""The intake of a file that is still arriving. What it finds is what an intake of the whole file finds."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from raybatch.actors import chores, read_ahead
from raybatch.actors.intake import IntakeTerms
from raybatch.actors.read_ahead import ReadAhead
from raybatch.config import Home, ModelSettings, Settings
from raybatch.core.model import Batch, Validation
from raybatch.storage.blobs import BlobStore
from raybatch.storage.request_index import IndexReader
from tests.intake.hostile import CHAT, request

FILE_ID = "file-ahead"
PIECE_BYTES = 100_001
GOOD = b"\n".join(request(f"id-{number}") for number in range(20_000)) + b"\n"
BAD = GOOD + b'{"custom_id": "torn"\n' + request("id-7") + b"\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    home.save(Settings(models=(ModelSettings("smol"),)))
    return home


def batch_of(home: Home, **more: object) -> Batch:
    batch = Batch("batch_1", "default", FILE_ID, CHAT, "24h", 86_400.0, 0.0, "file-out", "file-err")
    return replace(batch, **more)  # type: ignore[arg-type]


def followed(home: Home, content: bytes, kept: bool = True) -> ReadAhead | None:
    """What reading ahead comes to, begun when a part is there; the rest arrives meanwhile."""
    found: list[ReadAhead | None] = []
    with BlobStore(home.files).writer(FILE_ID) as writer:
        writer.write(content[:PIECE_BYTES])
        reading = threading.Thread(
            target=lambda: found.append(read_ahead.read_ahead(home, FILE_ID, writer.arriving))
        )
        reading.start()
        for start in range(PIECE_BYTES, len(content), PIECE_BYTES):
            writer.write(content[start : start + PIECE_BYTES])
        if kept:
            writer.commit()
    reading.join()
    return found[0]


@pytest.mark.parametrize("content", [GOOD, BAD])
def test_it_finds_what_intake_finds_in_the_whole_file(home: Home, content: bytes) -> None:
    ahead = followed(home, content)
    assert ahead is not None
    assert ahead.size_bytes == len(content)
    claimed = chores.intake(home, batch_of(home), ahead)
    entries = entries_of(home, batch_of(home))
    assert list(home.scratch.glob("file-*")) == []
    home.index_path("batch_1").unlink(missing_ok=True)
    assert claimed == chores.intake(home, batch_of(home))
    assert entries == entries_of(home, batch_of(home))
    assert bool(claimed.errors) == (content is BAD)


def entries_of(home: Home, batch: Batch) -> list[object]:
    path = home.index_path(batch.batch_id)
    if not path.exists():
        return []
    with IndexReader(path) as index:
        return list(index)


@pytest.mark.parametrize(
    "other",
    [{"endpoint": "/v1/completions"}, {"validation": Validation.RELAXED}],
    ids=["another endpoint", "another validation"],
)
def test_a_batch_that_asks_something_else_is_taken_in_as_ever(home: Home, other: dict[str, object]) -> None:
    ahead = followed(home, BAD)
    assert ahead is not None
    batch = batch_of(home, **other)
    taken = chores.intake(home, batch, ahead)
    assert taken == chores.intake(home, batch)
    assert taken != chores.intake(home, batch_of(home))


def test_it_is_claimed_once_and_the_next_batch_reads_the_file_itself(home: Home) -> None:
    ahead = followed(home, GOOD)
    assert ahead is not None
    terms = IntakeTerms.of(home.load(), CHAT)
    blob = home.files / FILE_ID
    assert ahead.claim(terms, blob, home.index_path("batch_1")) == ahead.report
    assert ahead.claim(terms, blob, home.index_path("batch_2")) is None
    assert chores.intake(home, batch_of(home, batch_id="batch_2"), ahead).total == 20_000
    assert home.index_path("batch_2").exists()


def test_settings_that_changed_since_are_heeded(home: Home) -> None:
    ahead = followed(home, GOOD)
    home.save(Settings(models=(ModelSettings("another"),)))
    taken = chores.intake(home, batch_of(home), ahead)
    assert {error.code for error in taken.errors} == {"model_not_found"}


def test_an_upload_that_was_faster_than_its_reader_is_read_all_the_same(home: Home) -> None:
    with BlobStore(home.files).writer(FILE_ID) as writer:
        writer.write(GOOD)
        arriving = writer.arriving
        writer.commit()
    ahead = read_ahead.read_ahead(home, FILE_ID, arriving)
    assert ahead is not None
    assert ahead.report.total == 20_000


def test_an_upload_that_is_given_up_leaves_nothing(home: Home) -> None:
    assert followed(home, GOOD, kept=False) is None
    assert list(home.scratch.iterdir()) == []


def test_a_sender_that_falls_silent_is_left_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "SILENCE_MAX_S", 0.0)
    with BlobStore(home.files).writer(FILE_ID) as writer:
        writer.write(GOOD)
        assert read_ahead.read_ahead(home, FILE_ID, writer.arriving) is None
    assert list(home.scratch.iterdir()) == []


@pytest.mark.parametrize(
    "begin",
    [b"", b"\n", b"not json\n", b'{"url": 1}\n', b'{"url": "/v1/nothing"}\n', b"[" * 100_000, b"\xff\n"],
)
def test_what_no_batch_can_run_is_not_read(home: Home, begin: bytes) -> None:
    with BlobStore(home.files).writer(FILE_ID) as writer:
        writer.write(begin)
        assert read_ahead.read_ahead(home, FILE_ID, writer.arriving) is None
    assert list(home.scratch.iterdir()) == []


def test_a_file_that_is_there_no_more_is_no_error(home: Home) -> None:
    assert read_ahead.read_ahead(home, FILE_ID, home.files / ".tmp-gone") is None


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "LOOK_S", 0.0005)


def test_what_was_read_of_another_file_than_the_one_it_became_is_not_used(home: Home) -> None:
    """Its parts were put in another order, say: as many bytes, and others."""
    other = home.files / ".tmp-other"
    other.write_bytes(BAD)
    (home.files / FILE_ID).write_bytes(BAD[::-1])
    assert read_ahead.read_ahead(home, FILE_ID, other) is None
