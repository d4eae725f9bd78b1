from __future__ import annotations

from pathlib import Path

import pytest

from raybatch.errors import BadRequest
from raybatch.storage import answer_sheet as module
from raybatch.storage.answer_sheet import AnswerSheet


def sheet(tmp_path: Path, content: bytes) -> AnswerSheet:
    path = tmp_path / "sheet"
    path.write_bytes(content)
    return AnswerSheet(path)


def expected(found: AnswerSheet, *custom_ids: str | None, of: tuple[str, ...] = ()) -> list[object]:
    return [None if line is None else line.expected for line in found.lines(custom_ids, of)]


def test_lines_are_found_whatever_stands_around_them(tmp_path: Path) -> None:
    found = sheet(
        tmp_path,
        b'\n  {"custom_id":"a","expected":"1","note":[]} \r\n\n{"custom_id":"\\u00e9","expected":true}',
    )
    assert expected(found, "é", None, "b", "a", "a") == [True, None, None, "1", "1"]
    assert expected(found) == []


def test_a_line_for_one_comes_before_the_line_for_all(tmp_path: Path) -> None:
    lines = b"".join(
        b'{"custom_id":"a","expected":"%s"%s}\n' % (text, b',"of":"%s"' % of if of else b"")
        for text, of in ((b"all", b""), (b"model", b"m"), (b"batch", b"batch_1"))
    )
    found = sheet(tmp_path, lines)
    assert expected(found, "a", of=("batch_1", "m")) == ["batch"]
    assert expected(found, "a", of=("batch_2", "m")) == ["model"]
    assert expected(found, "a", of=("batch_2", "n")) == ["all"]


def test_what_has_only_the_hash_of_a_name_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "hash", lambda _: 7, raising=False)
    found = sheet(tmp_path, b'{"custom_id":"a","expected":"1"}\n')
    assert expected(found, "a", "b") == ["1", None]


def test_a_sheet_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINES_MAX", 2)
    line = b'{"custom_id":"a","score":1}\n'
    assert sheet(tmp_path, 2 * line).lines(["a"], ())
    with pytest.raises(BadRequest, match=r"Line 3 .* may have 2 lines"):
        sheet(tmp_path, 3 * line)
