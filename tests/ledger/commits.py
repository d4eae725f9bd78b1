"""A process that commits without end and says so: ``python commits.py DIRECTORY``. Killed by its test."""

from __future__ import annotations

import sys
from pathlib import Path

from raybatch.ledger.durable import DurableMemory
from tests.ledger.history import remember, ticks


def main() -> None:
    memory = DurableMemory(Path(sys.argv[1]))
    state = memory.load()
    for seq, changes in enumerate(ticks(), start=1):
        remember(memory, state, changes)
        print(seq, flush=True)


if __name__ == "__main__":
    main()
