"""What ``raybatch.verify`` cannot know of a batch: the echo engine's words, and what SQL says of its rows.

It shares no code with what it judges: what the echo engine must have said is worked out here again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from raybatch.verify import checker
from raybatch.verify.verdict import Verdict

__all__ = ["Stored", "Verdict", "check"]

Json = dict[str, Any]
POISON: Final = "[[crash]]"  #: in a request: it ends the process that runs it
POISONED: Final = "engine_crash"  #: what its row says then
UNANSWERED: Final = {"cancelled": "batch_cancelled", "expired": "batch_expired"}  #: by the batch's status
_DIRECTIVE = re.compile(r"\[\[status=(\d+)\]\]")


@dataclass(frozen=True, slots=True)
class Stored:
    """A result row as SQL tells it."""

    index: int
    custom_id: str | None
    status_code: int | None
    line: str


def check(
    upload: bytes, batch: Json, output: bytes, error: bytes, stored: Iterable[Stored] | None = None
) -> Verdict:
    """Judge an ended batch. ``batch``: its object as the API shows it; ``stored``: its rows by SQL."""
    verdict = checker.check(batch, [upload], [output], [error])
    asked = {request["custom_id"]: request for request in map(json.loads, _lines(upload))}
    for kind, content in (("output", output), ("error", error)):
        for answer in map(json.loads, _lines(content)):
            if answer["custom_id"] in asked:
                _check_answer(asked[answer["custom_id"]], kind, answer, batch["status"], verdict)
    if stored is not None:
        _check_stored(list(asked), _lines(output), _lines(error), list(stored), verdict)
    return verdict


def _lines(content: bytes) -> list[bytes]:
    """Only a newline ends a line of JSONL; blank ones say nothing."""
    return [line for line in content.split(b"\n") if line.strip()]


def _check_answer(request: Json, kind: str, answer: Json, status: str, verdict: Verdict) -> None:
    custom_id, response = answer["custom_id"], answer["response"]
    if response is None:
        code = (answer["error"] or {}).get("code")
        expected = POISONED if POISON in _told(request) else UNANSWERED.get(status)
        if kind != "error" or code is None or code != expected:
            verdict.wonder(f"{kind} file of a {status} batch: {custom_id!r} is unanswered with {code}")
        return
    expected_status, expected_text = _expected(request)
    if kind != ("output" if expected_status < 400 else "error") or response["status_code"] != expected_status:
        verdict.wonder(f"{custom_id!r} is in the {kind} file with {response['status_code']}")
    elif expected_text is not None and _text(response["body"]) != expected_text:
        verdict.wonder(f"{custom_id!r} is answered with other words than its own")


def _expected(request: Json) -> tuple[int, str | None]:
    """What the echo engine says to a chat request: status and text."""
    told = _told(request)
    directive = _DIRECTIVE.search(told)
    return (200, f"echo: {told}") if directive is None else (int(directive[1]), None)


def _told(request: Json) -> str:
    said = [message["content"] for message in request["body"]["messages"] if message["role"] == "user"]
    last: str = said[-1]
    return last


def _text(body: Json) -> str | None:
    text: str | None = body["choices"][0]["message"]["content"]
    return text


def _check_stored(
    asked: list[str], output: list[bytes], error: list[bytes], stored: list[Stored], verdict: Verdict
) -> None:
    if sorted(row.index for row in stored) != list(range(len(asked))):
        verdict.wonder(f"SQL has {len(stored)} rows whose indexes are not 0 to {len(asked) - 1}, once each")
        return
    strayed = [row.index for row in stored if row.custom_id != asked[row.index]]
    if strayed:
        verdict.wonder(f"SQL has other custom_ids at the indexes {strayed[:5]}")
    ordered = sorted(stored, key=lambda row: row.index)
    for kind, lines, completed in (("output", output, True), ("error", error, False)):
        rows = [row.line.encode() for row in ordered if (200 <= (row.status_code or 0) < 400) is completed]
        if rows != lines:
            verdict.wonder(f"SQL has {len(rows)} rows for the {kind} file's {len(lines)}, or other ones")
