"""Every label is written down, is passed by some fault case, and kills once."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jobs.fault_crash import FIRST_START, PLACES, SLOW
from raybatch.crash_points import VARIABLE, arm, crash_point, fired

ROOT = Path(__file__).resolve().parent.parent
PASSES = (
    "from raybatch.crash_points import crash_point\nfor n in range(4):\n    crash_point('a.b')\n    print(n)"
)


def labels() -> Iterator[str]:
    for package in ("raybatch", "serve_app"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == crash_point.__name__:
                    (label,) = node.args
                    assert isinstance(label, ast.Constant), f"{path}: a label is a literal"
                    yield str(label.value)


def test_a_label_stands_at_one_place() -> None:
    assert {label: count for label, count in Counter(labels()).items() if count > 1} == {}


def test_every_label_is_in_the_documentation_and_in_a_fault_case() -> None:
    told = (ROOT / "docs" / "durability.md").read_text()
    found = set(labels())
    assert {label for label in found if f"`{label}`" not in told} == set()
    assert found == {label for _, label in PLACES} | {FIRST_START, SLOW}


def test_a_process_dies_at_the_passing_it_was_told_and_its_successor_does_not(tmp_path: Path) -> None:
    arm(tmp_path, "a.b", passing=3)
    assert _run(tmp_path) == (-signal.SIGKILL, "0\n1\n")
    assert fired(tmp_path, "a.b")
    assert _run(tmp_path) == (0, "0\n1\n2\n3\n")


def test_nothing_happens_unless_the_environment_says_so(tmp_path: Path) -> None:
    arm(tmp_path, "a.b")
    assert _run(None) == (0, "0\n1\n2\n3\n")
    assert not fired(tmp_path, "a.b")


def _run(directory: Path | None) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop(VARIABLE, None)
    if directory is not None:
        environment[VARIABLE] = str(directory)
    done = subprocess.run(
        [sys.executable, "-c", PASSES],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout
