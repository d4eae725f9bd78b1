"""A commit whose fsync fails is never spoken of: the process ends, and the next start finds the truth."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from raybatch.ledger.durable import DurableMemory

ROOT = Path(__file__).parents[2]

SPEAKING = """
import asyncio, errno, os, sys
from pathlib import Path
from raybatch.actors.scheduler import Scheduler
from raybatch.core.events import FileStored
from raybatch.core.model import File
from raybatch.core.policy import Policy
from raybatch.ledger.durable import DurableMemory

home, failing_call = Path(sys.argv[1]), int(sys.argv[2])
calls, fdatasync = 0, os.fdatasync

def counted(descriptor):
    global calls
    calls += 1
    if calls == failing_call:
        raise OSError(errno.EIO, "Input/output error")
    fdatasync(descriptor)

class Deaf:
    def send(self, command): ...

async def main():
    scheduler = Scheduler(lambda: DurableMemory(home / "ledger"), Deaf(), Policy(), home)
    running = asyncio.create_task(scheduler.run())
    await scheduler.wait_ready()
    os.fdatasync = counted
    for number in range(1, 7):
        file = File(f"file-{number}", "t", "batch", "in.jsonl", 1, 1.0)
        await scheduler.ask(FileStored("r", file))
        print(number, flush=True)
    scheduler.stop()
    await running

asyncio.run(main())
"""


@pytest.mark.parametrize("failing_call", [1, 2, 4, 6])
def test_a_failed_fsync_ends_the_process_before_it_answers(tmp_path: Path, failing_call: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SPEAKING, str(tmp_path), str(failing_call)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "a commit failed" in ended.stderr
    answered = [int(line) for line in ended.stdout.split()]
    assert answered == list(range(1, failing_call))
    with closing(DurableMemory(tmp_path / "ledger")) as memory:
        found = list(memory.load().files)
    assert found[: len(answered)] == [f"file-{number}" for number in answered]
    assert len(found) <= len(answered) + 1  # the one that failed may be there all the same
