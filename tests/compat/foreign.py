"""Suites that run as programs of their own: under Node, or in a Python with other versions than ours.

Such a program speaks TAP: `ok 1 - name` or `not ok 1 - name` at a line's start for each of its tests. The
names are read off its source, so that each one is a test of its own here, and one that never ran fails.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.compat.conftest import Server

ROOT: Final = Path(__file__).resolve().parents[2]
CLIENTS: Final = ROOT / ".cache" / "clients"
RUN_MAX_S: Final = 300.0
OUTCOME: Final = re.compile(r"^(ok|not ok) \d+ - (\S+)", flags=re.M)


def names(program: Path, pattern: str) -> list[str]:
    """Of its tests, in its order; ``pattern`` has one group, at a line's start."""
    return re.findall(rf"^{pattern}", program.read_text(), flags=re.M)


def outcomes(command: list[str | Path], server: Server, **environment: str) -> dict[str, str]:
    """For each test that ran: nothing when it passed, else all that the program printed."""
    if not Path(command[0]).exists():
        pytest.skip("the clients are not installed: make clients")
    told = {"COMPAT_BASE_URL": server.base_url, "COMPAT_KEY": server.key, "COMPAT_MODEL": server.model}
    done = subprocess.run(
        command,
        env=os.environ | told | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_MAX_S,
        check=False,
    )
    ran = {name: "" if said == "ok" else done.stdout for said, name in OUTCOME.findall(done.stdout)}
    assert ran, f"no test ran: {done.stdout}"
    return ran
