"""The process that compiles what clients give: one JSON line in, one out, within bounds of time and memory.

Started as a script by ``grammar_check``. It imports nothing of raybatch, holds no secrets, and any line may
kill it: by the processor time it takes, by the memory it wants, or by a fault in a compiler. The compilers
are those that vLLM uses; a grammar is good when one of them takes it, for vLLM tries them in turn.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

COMPILE_MAX_S = 2.0  #: of processor time
WALK_LETTERS = 128
MEMORY_BYTES_MAX = 512 << 20  #: beyond what the compilers themselves take

Attempt = Callable[[str, str], None]
_LETTERS = (*b'a{["1', *range(256))  #: in the order in which they are tried
_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")  #: a time and a line of a compiler's source


class _EmptyGrammar(Exception):
    """It compiles, and an engine that follows it ends with an error of its own."""


def main() -> None:
    attempts = [attempt for attempt in (_xgrammar(), _llguidance()) if attempt is not None]
    _limit_memory()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    _say({"ready": bool(attempts)})
    for line in sys.stdin:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, COMPILE_MAX_S)
        problem = _problem(attempts, asked["kind"], asked["text"])
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        _say({"problem": problem})


def _problem(attempts: list[Attempt], kind: str, text: str) -> str | None:
    problem: str | None = None
    for attempt in attempts:
        try:
            attempt(kind, text)
        except _EmptyGrammar as error:
            return str(error)
        except Exception as error:
            problem = problem or _PLACE.sub("", str(error)).strip() or type(error).__name__
        else:
            return None
    return problem


def _xgrammar() -> Attempt | None:
    try:
        xgrammar: Any = import_module("xgrammar")
    except ImportError:
        return None
    letters = xgrammar.TokenizerInfo([bytes([byte]) for byte in range(256)], xgrammar.VocabType.RAW)
    compiler = xgrammar.GrammarCompiler(letters, max_threads=1, cache_enabled=False)
    compile_kind = {
        "json": compiler.compile_json_schema,
        "regex": compiler.compile_regex,
        "grammar": compiler.compile_grammar,
        "structural_tag": compiler.compile_structural_tag,
    }

    def attempt(kind: str, text: str) -> None:
        matcher = xgrammar.GrammarMatcher(compile_kind[kind](text))
        if not _walk(matcher, xgrammar.allocate_token_bitmask(1, 256)) and kind != "regex":
            raise _EmptyGrammar("no text follows it")

    return attempt


def _walk(matcher: Any, allowed: Any) -> int:
    """Follows it for some letters, because some grammars compile at once and then take forever; how many."""
    for step in range(WALK_LETTERS):
        matcher.fill_next_token_bitmask(allowed, 0)
        words = [word & 0xFFFFFFFF for word in allowed[0].tolist()]
        letters = (letter for letter in _LETTERS if words[letter >> 5] >> (letter & 31) & 1)
        letter = next(letters, None)
        if letter is None or not matcher.accept_token(letter):
            return step
    return WALK_LETTERS


def _llguidance() -> Attempt | None:
    try:
        llguidance: Any = import_module("llguidance")
    except ImportError:
        return None

    def attempt(kind: str, text: str) -> None:
        if kind == "structural_tag":
            raise ValueError("the structural tag cannot be compiled")
        matcher = llguidance.LLMatcher
        if kind == "json":
            grammar = matcher.grammar_from_json_schema(text)
        else:
            grammar = llguidance.grammar_from(kind, text)
        problem = matcher.validate_grammar(grammar, None)
        if problem:
            raise ValueError(problem)

    return attempt


def _limit_memory() -> None:
    with open("/proc/self/statm") as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES_MAX,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
