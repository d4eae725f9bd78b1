"""Says whether a batch's answers are right, from the input, the downloaded files and the API's own words.

It shares no code with what it judges: lines are parsed with the standard library, and what the echo engine
must have said is worked out here again. Verdict counters after Jepsen: ``lost`` requests that no row answers,
``duplicated`` answers beyond the first, ``unexpected`` for everything else that does not agree.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]
FAULTS_TOLD_MAX: Final = 20
UNANSWERED: Final = {"cancelled": "batch_cancelled", "expired": "batch_expired"}  #: by the batch's status
_DIRECTIVE = re.compile(r"\[\[status=(\d+)\]\]")


@dataclass(slots=True)
class Verdict:
    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0
    faults: list[str] = field(default_factory=list)  #: the first of them, in words

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.unexpected)

    def lose(self, what: str) -> None:
        self.lost += 1
        self._tell(what)

    def double(self, what: str) -> None:
        self.duplicated += 1
        self._tell(what)

    def wonder(self, what: str) -> None:
        self.unexpected += 1
        self._tell(what)

    def _tell(self, what: str) -> None:
        if len(self.faults) < FAULTS_TOLD_MAX:
            self.faults.append(what)


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
    verdict = Verdict()
    asked = {request["custom_id"]: request for request in map(json.loads, _lines(upload))}
    files = {"output": list(map(json.loads, _lines(output))), "error": list(map(json.loads, _lines(error)))}
    _check_once(asked, files, verdict)
    for kind, answers in files.items():
        _check_order(list(asked), kind, answers, verdict)
        for answer in answers:
            if answer["custom_id"] in asked:
                _check_answer(asked[answer["custom_id"]], kind, answer, batch["status"], verdict)
    _check_counts(batch, len(asked), files, verdict)
    if stored is not None:
        _check_stored(list(asked), _lines(output), _lines(error), list(stored), verdict)
    return verdict


def _lines(content: bytes) -> list[bytes]:
    """Only a newline ends a line of JSONL; blank ones say nothing."""
    return [line for line in content.split(b"\n") if line.strip()]


def _check_once(asked: dict[str, Json], files: dict[str, list[Json]], verdict: Verdict) -> None:
    answered = Counter(answer["custom_id"] for answers in files.values() for answer in answers)
    for custom_id in asked.keys() - answered.keys():
        verdict.lose(f"{custom_id!r} has no answer")
    for custom_id, count in answered.items():
        if custom_id not in asked:
            verdict.wonder(f"{custom_id!r} was never asked")
        for _ in range(count - 1):
            verdict.double(f"{custom_id!r} is answered more than once")
    row_ids = Counter(answer["id"] for answers in files.values() for answer in answers)
    for row_id, count in row_ids.items():
        if count > 1:
            verdict.wonder(f"{count} rows have the id {row_id}")


def _check_order(asked: list[str], kind: str, answers: list[Json], verdict: Verdict) -> None:
    place = {custom_id: number for number, custom_id in enumerate(asked)}
    last = -1
    for answer in answers:
        here = place.get(answer["custom_id"], last)
        if here < last:
            verdict.wonder(f"{kind} file: {answer['custom_id']!r} comes after one that was asked later")
        last = here


def _check_answer(request: Json, kind: str, answer: Json, status: str, verdict: Verdict) -> None:
    custom_id, response = answer["custom_id"], answer["response"]
    if response is None:
        code = (answer["error"] or {}).get("code")
        if kind != "error" or code is None or code != UNANSWERED.get(status):
            verdict.wonder(f"{kind} file of a {status} batch: {custom_id!r} is unanswered with {code}")
        return
    expected_status, expected_text = _expected(request)
    if kind != ("output" if expected_status < 400 else "error") or response["status_code"] != expected_status:
        verdict.wonder(f"{custom_id!r} is in the {kind} file with {response['status_code']}")
    elif expected_text is not None and _text(response["body"]) != expected_text:
        verdict.wonder(f"{custom_id!r} is answered with other words than its own")
    elif expected_text is None and not response["body"].get("error", {}).get("message"):
        verdict.wonder(f"{custom_id!r} failed without saying why")


def _expected(request: Json) -> tuple[int, str | None]:
    """What the echo engine says to a chat request: status and text."""
    told = [message["content"] for message in request["body"]["messages"] if message["role"] == "user"][-1]
    directive = _DIRECTIVE.search(told)
    return (200, f"echo: {told}") if directive is None else (int(directive[1]), None)


def _text(body: Json) -> str | None:
    text: str | None = body["choices"][0]["message"]["content"]
    return text


def _check_counts(batch: Json, total: int, files: dict[str, list[Json]], verdict: Verdict) -> None:
    counts = batch["request_counts"]
    shown = (counts["total"], counts["completed"], counts["failed"])
    counted = (total, len(files["output"]), len(files["error"]))
    if shown != counted:
        verdict.wonder(f"the object counts {shown} (total, completed, failed), the files {counted}")
    for kind, answers in files.items():
        if (batch[f"{kind}_file_id"] is None) != (not answers):
            verdict.wonder(f"{kind}_file_id is {batch[f'{kind}_file_id']} for {len(answers)} rows")
    usages = [
        answer["response"]["body"].get("usage", {})
        for answers in files.values()
        for answer in answers
        if answer["response"] is not None
    ]
    for shown_name, row_name in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")):
        used = sum(usage.get(row_name, 0) for usage in usages)
        if batch["usage"][shown_name] != used:
            verdict.wonder(f"{shown_name} is {batch['usage'][shown_name]}, the rows add up to {used}")


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
