from __future__ import annotations

import random
from pathlib import Path

import pytest

from raybatch.storage import dataset
from raybatch.storage.dataset import dataset_digest


def digest(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return dataset_digest(path)


def content(model: str, rows: int) -> bytes:
    chance = random.Random(1)
    return b"".join(
        b'{"body":{"model" : "%s","content":"%s"}}\n' % (model.encode(), b"x" * chance.randrange(300))
        for _ in range(rows)
    )


@pytest.mark.parametrize("read_bytes", [7, 64, 1000])
def test_where_a_file_is_cut_while_it_is_read_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    whole = digest(tmp_path / "whole", content("a", 200))
    monkeypatch.setattr(dataset, "READ_BYTES", read_bytes)
    assert digest(tmp_path / "cut", content('a much longer name \\" of it', 200)) == whole
    assert digest(tmp_path / "unended", content("b", 200)[:-1]) == whole
    assert digest(tmp_path / "shorter", content("b", 199)) != whole


def test_a_line_too_long_to_be_held_still_counts_with_every_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "READ_BYTES", 64)
    monkeypatch.setattr(dataset, "LINE_BYTES_MAX", 256)
    first = digest(tmp_path / "first", b"x" * 5000 + b"a\n")
    assert digest(tmp_path / "same", b"x" * 5000 + b"a\n") == first
    assert digest(tmp_path / "last", b"x" * 5000 + b"b\n") != first
    assert digest(tmp_path / "begin", b"y" + b"x" * 4999 + b"a\n") != first
