"""Bytes cut, flipped and zeroed in journal, ledger and WAL: the committed state, or a refusal that helps.

Each case runs in a process of its own: a library that ends the process on a harmed file must be seen to.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from raybatch.ledger.durable import DurableMemory
from tests.ledger.history import newest, remember, state_after, ticks
from tests.ledger.remembered import durable

COMMITS = 60
CASES = 8  #: a kind of damage and a file


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some commits in the ledger's file, the rest in its WAL, as a killed process leaves it."""
    directory = tmp_path_factory.mktemp("intact")
    with closing(DurableMemory(directory)) as memory:
        state = memory.load()
        for changes in islice(ticks(), COMMITS // 2):
            remember(memory, state, changes)
    subprocess.run([sys.executable, "-c", GO_ON, str(directory)], cwd=ROOT, check=True)
    (directory / "reserve").unlink()
    assert (directory / "ledger.duckdb.wal").stat().st_size > 0
    return directory


ROOT = Path(__file__).parents[2]

GO_ON = f"""
import os, sys
from itertools import islice
from pathlib import Path
from raybatch.ledger.durable import DurableMemory
from tests.ledger.history import remember, ticks

memory = DurableMemory(Path(sys.argv[1]))
state = memory.load()
for changes in islice(ticks(), {COMMITS // 2}, {COMMITS}):
    remember(memory, state, changes)
os._exit(0)
"""

LOOK = """
import logging, sys
from contextlib import closing
from pathlib import Path
from raybatch.errors import Corrupt
from raybatch.ledger.durable import DurableMemory
from tests.ledger.remembered import durable

logging.disable()
for directory in sys.argv[1:]:
    try:
        with closing(DurableMemory(Path(directory))) as memory:
            print(hash(repr(durable(memory.load()))), flush=True)
    except Corrupt as refused:
        print("refused" if "raybatch rebuild" in refused.message else refused.message, flush=True)
"""


@pytest.mark.parametrize("kind", ["cut", "flip", "zero"])
@pytest.mark.parametrize("name", ["ledger.duckdb", "ledger.duckdb.wal", "journal"])
def test_damage_anywhere_gives_the_committed_state_or_a_refusal(
    intact: Path, tmp_path: Path, name: str, kind: str
) -> None:
    rng = random.Random(f"{name} {kind}")
    directories = []
    for number in range(CASES):
        directory = tmp_path / str(number)
        shutil.copytree(intact, directory)
        path = newest(directory / "journal") if name == "journal" else directory / name
        _harm(path, kind, rng.randrange(path.stat().st_size), rng)
        directories.append(str(directory))
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    looked = subprocess.run(
        [sys.executable, "-c", LOOK, *directories, str(shutil.copytree(intact, tmp_path / "intact"))],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    *answers, committed = looked.stdout.splitlines()
    assert committed != "refused"
    assert len(answers) == CASES
    allowed = {"refused"} if name == "journal" else {committed}  # all of the journal was acknowledged
    assert set(answers) == allowed, answers


def test_the_intact_one_holds_every_commit(intact: Path, tmp_path: Path) -> None:
    with closing(DurableMemory(shutil.copytree(intact, tmp_path / "intact"))) as memory:
        assert durable(memory.load()) == durable(state_after(COMMITS))


def _harm(path: Path, kind: str, offset: int, rng: random.Random) -> None:
    if kind == "cut":
        os.truncate(path, offset)
        return
    harmed = bytearray(path.read_bytes())
    if kind == "flip":
        harmed[offset] ^= 1 << rng.randrange(8)
    else:
        length = min(64, len(harmed) - offset)
        harmed[offset : offset + length] = bytes(length)
    path.write_bytes(harmed)
