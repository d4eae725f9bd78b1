"""A backup holds what was remembered and every file it names; a restored home is the same again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from raybatch.actors.cluster_facts import try_lock
from raybatch.cli.main import app
from raybatch.config import Home
from raybatch.core import changes as c
from raybatch.core.model import Batch, File, PartFile, PartSlice, ResultRow, Tally
from raybatch.core.state import State
from raybatch.ledger.durable import DurableMemory
from raybatch.storage.blobs import BlobStore
from raybatch.storage.compaction import compact
from raybatch.storage.parts import write_part

UPLOAD = b'{"custom_id": "a"}\n' * 9
ROW = ResultRow(
    *(0, 0, "a", 200, None, None, "m", "four", "stop", 1, 1, 0, b"{}", 1, "engine-1", 1.0, 2.0),
)


class Lived:
    """A home with an unfinished batch of nine rows, grown three rows at a time."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.make()
        self.memory = DurableMemory(self.home.ledger)
        self.state = self.memory.load()
        with BlobStore(self.home.files).writer("file-1") as writer:
            writer.write(UPLOAD)
            size_bytes, sha256 = writer.commit()
        self.home.index_path("batch_1").write_bytes(b"PAR1 index PAR1")
        file = File("file-1", "default", "batch", "in.jsonl", size_bytes, 1.0, sha256)
        batch = Batch("batch_1", "default", "file-1", "/v1/chat/completions", "24h", 86_400.0, 1.0)
        self.remember(c.FileAdded(file), c.BatchCreated(batch), c.BatchValidated("batch_1", 9, "m", 9, 2.0))

    def remember(self, *changes: c.DurableChange) -> None:
        images = tuple(image for change in changes for image in self.state.apply(change))
        self.memory.remember(changes, images, 3.0)

    def grow(self) -> PartFile:
        first, token = self.state.batches["batch_1"].cursor, self.state.next_token
        rows = [replace(ROW, index=first + i, position=first + i) for i in range(3)]
        part = write_part(self.home.root, "batch_1", f"p{token}", rows)
        piece = PartSlice(token, token, first, 0b111, Tally(3))
        self.remember(
            c.LeaseGranted(token, "batch_1", first, 3, token, "e1"),
            c.PartCommitted("batch_1", part, (piece,)),
        )
        return part

    def compact(self) -> None:
        parts = tuple(self.state.parts["batch_1"].values())
        merged = compact(self.home.root, "batch_1", "run", parts)
        self.remember(c.PartsReplaced("batch_1", merged, tuple(part.part_id for part in parts)))
        for part in parts:
            (self.home.root / part.path).unlink()


@pytest.fixture
def lived(tmp_path: Path) -> Iterator[Lived]:
    lived = Lived(tmp_path / "home")
    lived.grow()
    with closing(lived.memory):
        yield lived


def raybatch(home: Path | Home, *words: str) -> Result:
    root = home.root if isinstance(home, Home) else home
    return CliRunner().invoke(app, ["--home", str(root), *words])


def remembered(home: Home) -> State:
    with closing(DurableMemory(home.ledger)) as memory:
        return memory.load()


def files_of(home: Home) -> dict[str, bytes]:
    return {
        str(path.relative_to(home.root)): path.read_bytes()
        for folder in ("files", "batches", "results")
        for path in sorted((home.root / folder).rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("running", [True, False])
def test_a_restored_home_is_the_one_that_was_backed_up(lived: Lived, tmp_path: Path, running: bool) -> None:
    if not running:
        lived.memory.close()
    made = raybatch(lived.home, "backup", str(tmp_path / "copy"))
    assert made.exit_code == 0, made.output
    restored = Home(tmp_path / "restored")
    assert raybatch(restored, "restore", str(tmp_path / "copy")).exit_code == 0
    assert remembered(restored).images() == lived.state.images()
    assert files_of(restored) == files_of(lived.home) != {}


def test_files_that_compaction_moves_meanwhile_are_found_under_their_new_name(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived.grow()
    moves = iter([lived.compact])
    copyfile = backup_module().shutil.copyfile

    def compacted_first(origin: Path, target: Path) -> None:
        if "results" in str(origin):
            next(moves, lambda: None)()
        copyfile(origin, target)

    monkeypatch.setattr(backup_module().shutil, "copyfile", compacted_first)
    made = raybatch(lived.home, "backup", str(tmp_path / "copy"))
    assert made.exit_code == 0, made.output
    assert files_of(Home(tmp_path / "copy")) == files_of(lived.home)


def test_a_second_backup_copies_only_what_is_new_and_drops_what_is_gone(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Home(tmp_path / "copy")
    raybatch(lived.home, "backup", str(copy.root))
    lived.grow()
    lived.compact()
    copied: list[str] = []
    copyfile = backup_module().shutil.copyfile
    monkeypatch.setattr(
        backup_module().shutil, "copyfile", lambda a, b: (copied.append(Path(a).name), copyfile(a, b))
    )
    assert raybatch(lived.home, "backup", str(copy.root)).exit_code == 0
    assert copied == ["run.parquet"]
    assert files_of(copy) == files_of(lived.home)


def test_a_backup_cut_short_leaves_the_earlier_one_whole(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    raybatch(lived.home, "backup", str(copy))
    before = lived.state.images()
    lived.grow()
    with monkeypatch.context() as patch:
        patch.setattr(backup_module(), "_write_journal", fail)
        assert raybatch(lived.home, "backup", str(copy)).exit_code != 0
    restored = Home(tmp_path / "restored")
    assert raybatch(restored, "restore", str(copy)).exit_code == 0
    assert remembered(restored).images() == before


def test_harm_at_the_source_is_named_and_the_good_copy_of_an_earlier_backup_stays(
    lived: Lived, tmp_path: Path
) -> None:
    harmed = lived.home.root / lived.grow().path
    copy = tmp_path / "copy"
    raybatch(lived.home, "backup", str(copy))
    harmed.unlink()
    assert raybatch(lived.home, "backup", str(copy)).exit_code == 0
    fresh = raybatch(lived.home, "backup", str(tmp_path / "fresh"))
    assert fresh.exit_code == 1
    assert harmed.name in fresh.output
    assert "1 files are missing or damaged" in fresh.output


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("home/inside", "lie in each other"),
        ("occupied", "is not a backup"),
        ("of-another", "is a backup of"),
    ],
)
def test_a_directory_that_is_not_this_homes_backup_is_left_alone(
    lived: Lived, tmp_path: Path, target: str, expected: str
) -> None:
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.tex").touch()
    other = Lived(tmp_path / "other-home")
    other.memory.close()
    assert raybatch(other.home, "backup", str(tmp_path / "of-another")).exit_code == 0
    refused = raybatch(lived.home, "backup", str(tmp_path / target))
    assert refused.exit_code == 1
    assert expected in refused.output
    assert (tmp_path / "occupied" / "thesis.tex").exists()


def test_only_a_backup_is_restored_and_only_into_an_empty_home(lived: Lived, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    raybatch(lived.home, "backup", str(copy))
    for home, source, expected in (
        (lived.home.root, copy, "is not empty"),
        (tmp_path / "new", lived.home.root, "is not a backup"),
    ):
        refused = raybatch(home, "restore", str(source))
        assert refused.exit_code == 1
        assert expected in refused.output


def test_rebuild_refuses_a_running_home(lived: Lived) -> None:
    with try_lock(lived.home):
        refused = raybatch(lived.home, "rebuild")
    assert (refused.exit_code, "`raybatch down` first" in refused.output) == (1, True)


def test_rebuild_makes_the_ledger_again_and_checks_the_results(lived: Lived) -> None:
    part = lived.grow()
    lived.memory.close()
    (lived.home.ledger / "ledger.duckdb").write_bytes(b"no ledger")
    made = raybatch(lived.home, "rebuild")
    assert made.exit_code == 0, made.output
    assert remembered(lived.home).images() == lived.state.images()
    os.truncate(lived.home.root / part.path, 10)
    found = raybatch(lived.home, "rebuild")
    assert found.exit_code == 1
    assert part.path in found.output


def test_rebuild_loses_something_only_when_told_to(lived: Lived) -> None:
    before = lived.state.images()
    lived.grow()
    lived.memory.close()
    (journal,) = lived.home.ledger.glob("journal/*.journal")
    os.truncate(journal, journal.stat().st_size - 10)
    (lived.home.ledger / "ledger.duckdb").unlink()
    refused = raybatch(lived.home, "rebuild")
    assert refused.exit_code == 1
    assert re.search(r"would lose everything remembered after \d{4}-.*--accept-loss", refused.output)
    done = raybatch(lived.home, "rebuild", "--accept-loss")
    assert done.exit_code == 0, done.output
    assert remembered(lived.home).images() == before


def backup_module() -> object:
    import importlib

    return importlib.import_module("raybatch.cli.backup")


def fail(*_: object) -> None:
    raise KeyboardInterrupt
