"""Does a grammar compile? Asked of one warm process, each distinct grammar once.

Most batches repeat one schema, so what was asked is remembered by digest. A grammar that kills the process is
to blame for it, and after a few of those no new one is tried: rows that bring another are refused.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

log = logging.getLogger(__name__)

ANSWER_MAX_S: Final = 30.0  #: by the clock; the process itself is held to 2 s of processor time
START_MAX_S: Final = 120.0  #: the compilers are large
DEATHS_MAX: Final = 5
REMEMBERED_MAX: Final = 10_000
PROBLEM_CHARACTERS_MAX: Final = 300
_CHILD: Final = Path(__file__).with_name("grammar_child.py")
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR")


class GrammarChecker:
    """Not for use by several threads at once. ``close`` it."""

    def __init__(self, child: Path = _CHILD) -> None:
        self._child = child
        self._process: subprocess.Popen[bytes] | None = None
        self._remembered: dict[bytes, str | None] = {}
        self._deaths = 0
        self._without = False  #: no compiler is installed: the engine will judge

    def problem(self, kind: str, text: str) -> str | None:
        """``kind``: json, regex, grammar or structural_tag. None when it compiles."""
        digest = hashlib.blake2b(f"{kind}:{text}".encode(), digest_size=16).digest()
        if digest not in self._remembered:
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[digest] = self._ask(kind, text)
        return self._remembered[digest]

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()

    def _ask(self, kind: str, text: str) -> str | None:
        if self._without:
            return None
        if self._deaths >= DEATHS_MAX:
            return f"it was not compiled, because {DEATHS_MAX} others of this batch could not be"
        process = self._process or self._start()
        if process is None:
            return None
        answer = self._exchange(
            process, msgspec.json.encode({"kind": kind, "text": text}) + b"\n", ANSWER_MAX_S
        )
        if answer is None:
            self._deaths += 1
            self.close()
            return "it takes too much time or memory to compile"
        problem: str | None = answer["problem"]
        return None if problem is None else f"it does not compile: {problem[:PROBLEM_CHARACTERS_MAX]}"

    def _start(self) -> subprocess.Popen[bytes] | None:
        """None when there is nothing to compile with."""
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(self._child)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        greeting = self._exchange(self._process, b"", START_MAX_S)
        if greeting is None or not greeting["ready"]:
            log.warning("grammars are not compiled at intake: no compiler for them could be started")
            self.close()
            self._without = True
        return self._process

    def _exchange(
        self, process: subprocess.Popen[bytes], line: bytes, limit_s: float
    ) -> dict[str, Any] | None:
        """The answer to ``line``; None when the process ends or says nothing in time."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            readable, _, _ = select.select([process.stdout], [], [], limit_s)
            answer: dict[str, Any] = msgspec.json.decode(process.stdout.readline()) if readable else {}
        except (OSError, msgspec.DecodeError):
            return None
        return answer or None
