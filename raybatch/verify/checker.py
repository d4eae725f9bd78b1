"""Says whether an ended batch is whole, from its input, its files and the API's own words, and nothing else.

It shares no code with what it judges: lines are split and parsed here again, with the standard library.
Everything streams: of a request only a salted 64-bit digest of its custom_id and its line number are held,
less than 100 MB for a million rows, whatever they say.
"""

from __future__ import annotations

import json
import secrets
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from raybatch.verify.verdict import Verdict

Json = dict[str, Any]
Blocks = Iterable[bytes]  #: a file's bytes, cut anywhere
BLOCK_LINES: Final = 8192
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_SALT: Final = secrets.token_bytes(16)  #: nobody can choose ids whose digests collide


def check(batch: Json, upload: Blocks | None, output: Blocks, error: Blocks) -> Verdict:
    """Judge an ended batch. ``batch``: its object as the API shows it; ``upload``: None where its owner has
    deleted it: then only what files and object say of each other is checked.
    """
    verdict = Verdict()
    asked = None if upload is None else _asked(upload)
    answers = [_Answers(kind, asked, verdict) for kind in ("output", "error")]
    row_ids = array("Q")
    for some, blocks in zip(answers, (output, error), strict=True):
        for block in _blocks_of_lines(blocks):
            some.take(block, row_ids)
    if asked is not None:
        _check_once(asked, answers, verdict)
    _check_row_ids(row_ids, verdict)
    _check_object(batch, None if asked is None else asked.total, answers, verdict)
    return verdict


@dataclass(slots=True)
class _Asked:
    """The requests of an upload, by the digest of their custom_id."""

    by_place: Any  #: their digests in input order
    digests: Any  #: sorted, each once
    expected: Any  #: answers due to each: one, unless its custom_id was used again
    place: Any  #: of its first use among the requests
    line: Any  #: physical line, from 1, by place
    answered: Any  #: answers found so far

    @property
    def total(self) -> int:
        return len(self.by_place)

    def digest_of(self, custom_id: str | None, line: int | None) -> int:
        """A row without an id answers the line it names: in a line it refuses a server need not find one."""
        if custom_id is None and line is not None:
            place = int(np.searchsorted(self.line, line))
            if place < self.total and self.line[place] == line:
                return int(self.by_place[place])
        return _digest(custom_id)


def _asked(upload: Blocks) -> _Asked:
    digests, numbers = array("Q"), array("Q")
    for number, line in _numbered_lines(upload):
        digests.append(_digest(_custom_id(_parsed(line))))
        numbers.append(number)
    found = np.frombuffer(digests, np.uint64) if digests else np.empty(0, np.uint64)
    unique, place, expected = np.unique(found, return_index=True, return_counts=True)
    return _Asked(found, unique, expected, place, np.asarray(numbers), np.zeros(len(unique), np.int64))


@dataclass(slots=True)
class _Answers:
    """The rows of one file, as they stream by."""

    kind: str
    asked: _Asked | None
    verdict: Verdict
    rows: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    repeated: list[str] = field(default_factory=list)  #: the first answers beyond those that were due
    _last_place: int = -1

    def take(self, lines: list[bytes], row_ids: array[int]) -> None:
        custom_ids: list[str | None] = []
        named_lines: list[int | None] = []
        for line in lines:
            self.rows += 1
            answer = _parsed(line)
            if answer is None:
                self.verdict.wonder(f"{self._row(self.rows)} is not a JSON object")
                continue
            custom_ids.append(_custom_id(answer))
            line_number = _at(answer, "error", "line")
            named_lines.append(line_number if isinstance(line_number, int) else None)
            row_ids.append(_digest(str(answer.get("id"))))
            self._check_shape(answer)
            self._count_tokens(answer)
        if self.asked is not None and custom_ids:
            self._match(self.asked, custom_ids, named_lines)

    def _match(self, asked: _Asked, custom_ids: list[str | None], named_lines: list[int | None]) -> None:
        digests = np.fromiter(map(asked.digest_of, custom_ids, named_lines), np.uint64, len(custom_ids))
        if not asked.total:
            return self.verdict.wonder(f"{custom_ids[0]!r} was never asked", len(custom_ids))
        slot = np.minimum(np.searchsorted(asked.digests, digests), len(asked.digests) - 1)
        known = asked.digests[slot] == digests
        for row in np.flatnonzero(~known):
            self.verdict.wonder(f"{self.kind} file: {custom_ids[row]!r} was never asked")
        np.add.at(asked.answered, slot[known], 1)
        for row in np.flatnonzero(known & (asked.answered[slot] > asked.expected[slot]))[:1]:
            self.repeated.append(f"{self.kind} file: {custom_ids[row]!r} is answered more than once")
        self._check_order(asked.place[slot[known & (asked.expected[slot] == 1)]], asked)

    def _check_order(self, places: Any, asked: _Asked) -> None:
        if not len(places):
            return
        steps = np.diff(places, prepend=self._last_place)
        for row in np.flatnonzero(steps < 0):
            line = asked.line[int(places[row])]
            self.verdict.wonder(
                f"{self.kind} file: the answer to line {line} comes after one that was asked later"
            )
        self._last_place = int(places[-1])

    def _check_shape(self, answer: Json) -> None:
        response, error = answer.get("response"), answer.get("error")
        if response is None:
            told = isinstance(error, dict) and error.get("code") and error.get("message")
            if self.kind == "output" or not told:
                self.verdict.wonder(f"{self._row(self.rows)} has no answer, and error {json.dumps(error)}")
            return
        status = response.get("status_code") if isinstance(response, dict) else None
        fits = isinstance(status, int) and (status < 400) == (self.kind == "output")
        if not fits or error is not None:
            self.verdict.wonder(f"{self._row(self.rows)} has status {status} and error {json.dumps(error)}")
        elif self.kind == "error" and not _message(response):
            self.verdict.wonder(f"{self._row(self.rows)} failed without saying why")

    def _count_tokens(self, answer: Json) -> None:
        usage = _at(answer, "response", "body", "usage")
        if isinstance(usage, dict):
            self.input_tokens += usage.get("prompt_tokens") or usage.get("input_tokens") or 0
            self.output_tokens += usage.get("completion_tokens") or usage.get("output_tokens") or 0

    def _row(self, number: int) -> str:
        return f"{self.kind} file: row {number}"


def _check_once(asked: _Asked, answers: list[_Answers], verdict: Verdict) -> None:
    missing = asked.expected - asked.answered
    slots = np.flatnonzero(missing > 0)
    for line, rows in sorted((asked.line[int(asked.place[slot])], int(missing[slot])) for slot in slots):
        verdict.lose(f"line {line} of the input has no answer", rows)
    if doubled := int(-missing[missing < 0].sum()):
        verdict.double(next(told for some in answers for told in some.repeated), doubled)


def _check_row_ids(row_ids: array[int], verdict: Verdict) -> None:
    if not row_ids:
        return
    repeated = len(row_ids) - len(np.unique(np.frombuffer(row_ids, np.uint64)))
    if repeated:
        verdict.wonder(f"{repeated} rows have the id of another row", repeated)


def _check_object(batch: Json, total: int | None, answers: list[_Answers], verdict: Verdict) -> None:
    counts, (output, error) = batch["request_counts"], answers
    shown = counts["total"], counts["completed"], counts["failed"]
    counted = counts["total"] if total is None else total, output.rows, error.rows
    if shown != counted:
        verdict.wonder(f"the object counts {shown} (total, completed, failed), the files {counted}")
    elif shown[0] != shown[1] + shown[2]:
        verdict.wonder(f"of {shown[0]} requests {shown[1]} completed and {shown[2]} failed")
    for some in answers:
        if (batch[f"{some.kind}_file_id"] is None) != (some.rows == 0):
            verdict.wonder(f"{some.kind}_file_id is {batch[f'{some.kind}_file_id']} for {some.rows} rows")
    for name in ("input_tokens", "output_tokens"):
        used = sum(getattr(some, name) for some in answers)
        if batch["usage"][name] != used:
            verdict.wonder(f"{name} is {batch['usage'][name]}, the rows add up to {used}")


# -- lines -------------------------------------------------------------------------------------------------


def _blocks_of_lines(blocks: Blocks) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    for _, line in _numbered_lines(blocks):
        some.append(line)
        if len(some) == BLOCK_LINES:
            yield some
            some = []
    yield some


def _numbered_lines(blocks: Blocks) -> Iterator[tuple[int, bytes]]:
    """Physical lines from 1 that are not blank. Only a newline ends a line of JSONL."""
    number, begun = 0, []
    for block in blocks:
        first, *others = block.split(b"\n")
        begun.append(first)
        if not others:
            continue
        for line in (b"".join(begun), *others[:-1]):
            number += 1
            if line.strip():
                yield number, line
        begun = [others[-1]]
    if (last := b"".join(begun)).strip():
        yield number + 1, last


def _parsed(line: bytes) -> Json | None:
    try:
        value = json.loads(line.removeprefix(BYTE_ORDER_MARK))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _custom_id(request: Json | None) -> str | None:
    """None for a line without one, which only a server that is lenient with bad lines answers at all."""
    custom_id = (request or {}).get("custom_id")
    return custom_id if isinstance(custom_id, str) else None


def _digest(text: str | None) -> int:
    marked = b"" if text is None else b"=" + text.encode(errors="surrogatepass")
    return int.from_bytes(blake2b(marked, digest_size=8, key=_SALT).digest())


def _message(response: Json) -> object:
    return _at(response, "body", "error", "message")


def _at(value: object, *keys: str) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
