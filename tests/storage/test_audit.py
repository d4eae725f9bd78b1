"""An audit sees each kind of harm to a home's files, says whose it is and what helps, and nothing else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from raybatch.core.model import Batch, BatchStatus, File, PartFile, ResultRow, Tally
from raybatch.storage.audit import Finding, audit
from raybatch.storage.manifest import BatchFiles, Manifest
from raybatch.storage.parts import write_part

UPLOAD = b'{"custom_id": "a"}\n' * 4
ROW = ResultRow(
    *(0, 0, "a", 200, None, None, "m", "four", "stop", 1, 1, 0, b"{}", 1, "engine-1", 1.0, 2.0),
)


@dataclass
class Audited:
    """A batch of four rows of which three are committed, in two parts; the second repeats a masked row."""

    home: Path
    batch: Batch
    parts: list[PartFile]
    upload: File

    def findings(self, deep: bool) -> tuple[Finding, ...]:
        manifest = Manifest((BatchFiles(self.batch, None, tuple(self.parts)),))
        return audit(self.home, manifest, deep, (self.upload,))

    @property
    def upload_path(self) -> Path:
        return self.home / "files" / self.upload.file_id

    @property
    def index_path(self) -> Path:
        return self.home / "batches" / f"{self.batch.batch_id}.index.parquet"

    def part_path(self) -> Path:
        return self.home / self.parts[0].path


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    batch = Batch(
        *("batch_1", "t", "file-1", "/v1/chat/completions", "24h", 86_400.0, 1.0),
        status=BatchStatus.IN_PROGRESS,
        total=4,
        cursor=4,
        tally=Tally(3, 0),
    )
    parts = [
        write_part(tmp_path, "batch_1", "p1", [replace(ROW, index=i, position=i) for i in (0, 1)]),
        write_part(tmp_path, "batch_1", "p2", [replace(ROW, index=i, position=i) for i in (1, 2)]),
    ]
    parts[1] = replace(parts[1], masked=(1,))
    upload = File(
        *("file-1", "t", "batch", "in.jsonl", len(UPLOAD), 1.0), sha256=hashlib.sha256(UPLOAD).hexdigest()
    )
    whole = Audited(tmp_path, batch, parts, upload)
    whole.upload_path.parent.mkdir()
    whole.upload_path.write_bytes(UPLOAD)
    whole.index_path.parent.mkdir()
    whole.index_path.write_bytes(b"PAR1 index PAR1")
    return whole


def flip(path: Path) -> None:
    harmed = bytearray(path.read_bytes())
    harmed[len(harmed) // 2] ^= 0x10
    stat = path.stat()
    path.write_bytes(harmed)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_home_has_no_findings(audited: Audited, deep: bool) -> None:
    assert audited.findings(deep) == ()


@pytest.mark.parametrize("harm", [Path.unlink, cut])
@pytest.mark.parametrize("deep", [False, True])
def test_missing_and_cut_files_are_found_at_every_start(
    audited: Audited, deep: bool, harm: Callable[[Path], None]
) -> None:
    paths = [audited.part_path(), audited.upload_path, audited.index_path]
    for path in paths:
        harm(path)
    findings = audited.findings(deep)
    assert {audited.home / finding.path for finding in findings} == set(paths)
    assert all(str(finding).count("bring the file back from a copy") == 1 for finding in findings)
    assert findings[-1].batch_id == "batch_1" or harm is cut


@pytest.mark.parametrize("which", ["part", "upload"])
def test_a_flipped_bit_is_found_in_depth(audited: Audited, which: str) -> None:
    path = audited.part_path() if which == "part" else audited.upload_path
    assert audited.findings(deep=True) == ()
    flip(path)
    assert audited.findings(deep=False) == ()
    (finding,) = audited.findings(deep=True)
    assert audited.home / finding.path == path
    assert "sha256" in finding.expected


def test_an_ended_batch_needs_neither_upload_nor_index(audited: Audited) -> None:
    audited.batch = replace(audited.batch, status=BatchStatus.COMPLETED, total=3)
    audited.upload_path.unlink()
    audited.index_path.unlink()
    audited.upload = replace(audited.upload, file_id="file-2")
    audited.upload_path.write_bytes(UPLOAD)
    assert audited.findings(deep=True) == ()


def test_files_of_earlier_rounds_are_looked_at_too(audited: Audited) -> None:
    files = BatchFiles(audited.batch, None, tuple(audited.parts[1:]), tuple(audited.parts))
    audited.part_path().unlink()
    (finding,) = audit(audited.home, Manifest((files,)))
    assert finding.path == audited.parts[0].path


@pytest.mark.parametrize("lie", ["a row twice", "a row too few", "a row too many", "a row that is not"])
def test_rows_that_do_not_add_up_are_found_in_depth(audited: Audited, lie: str) -> None:
    match lie:
        case "a row twice":
            audited.parts[1] = replace(audited.parts[1], masked=())
        case "a row too few":
            audited.parts[1] = replace(audited.parts[1], masked=(1, 2))
        case "a row too many":
            audited.batch = replace(audited.batch, tally=Tally(2, 0))
        case "a row that is not":
            audited.batch = replace(audited.batch, total=2)
    assert audited.findings(deep=False) == ()
    (finding,) = audited.findings(deep=True)
    assert "keep both" in finding.helps
