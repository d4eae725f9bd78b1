"""docs/compatibility.md promises what tests prove: each row names one, and each that is named is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "compatibility.md").read_text()
HEADER = "| behaviour | test | beyond |"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:\[(\w+)\])?`")
#: where the tests of a program of its own are written
PROGRAMS = {"test_node": "node_client.mjs", "test_litellm": "litellm_client.py"}
ROWS = [
    line
    for table in PAGE.split(f"{HEADER}\n|---|---|---|\n")[1:]
    for line in table.partition("\n\n")[0].splitlines()
]
NAMED = sorted(set(TEST.findall(PAGE)))


def test_there_are_rows_to_look_at() -> None:
    assert len(ROWS) > 50


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_a_row_names_a_test(row: str) -> None:
    behaviour, tests, _ = row.strip("|").split(" | ")
    assert behaviour.strip()
    assert TEST.search(tests)


@pytest.mark.parametrize(("file", "name", "case"), NAMED, ids=lambda part: Path(part).stem)
def test_a_test_that_is_named_exists(file: str, name: str, case: str) -> None:
    path = ROOT / file
    assert re.search(rf"^(?:async )?def {name}\(", path.read_text(), flags=re.M)
    if case:
        written = path.with_name(PROGRAMS[name]).read_text()
        assert re.search(rf'^(?:test\("|(?:async )?def ){case}\b', written, flags=re.M)


def test_every_test_of_the_clients_suite_proves_something_here() -> None:
    """Or the page leaves out what the suite knows."""
    named = {(file, name) for file, name, _ in NAMED}
    suite = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / "tests" / "compat").glob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), flags=re.M)
    }
    assert suite - named == set()
