"""How good an answer is: 0 or 1 by a rule that can be told in a sentence.

``exact`` and ``contains`` leave case and outer white space aside; ``regex`` is RE2, which takes no longer for
a bad pattern than for a good one; ``given`` takes what the sheet says. Refuses to judge by a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from raybatch.errors import BadRequest
from raybatch.storage.answer_sheet import SheetLine, answer_sheet

ScoreKind = Literal["exact", "contains", "regex", "given"]


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """``expected`` is for every row, ``sheet`` for each its own: exactly one of them is there."""

    kind: ScoreKind
    expected: str | None = None
    sheet: Path | None = None
    member: str | None = None  #: the answer is a JSON object, and this member of it is judged

    def check(self) -> None:
        """Raises BadRequest naming the parameter."""
        if (self.expected is None) == (self.sheet is None):
            raise _refused(f"score={self.kind} needs expected or sheet_file_id, one of them", "expected")
        if self.kind == "regex" and self.expected is None:
            raise _refused("score=regex takes one pattern for all rows", "expected")
        if self.kind == "given" and self.sheet is None:
            raise _refused("score=given needs sheet_file_id", "sheet_file_id")
        if self.kind == "regex":
            try:
                pc.match_substring_regex(pa.array([""]), self.expected)
            except pa.ArrowInvalid as error:
                raise _refused(
                    f"'{str(self.expected)[:200]}' is no pattern of RE2 ({error})", "expected"
                ) from None

    def scores(
        self, custom_ids: Sequence[str | None], answers: Sequence[str | None], of: Sequence[str]
    ) -> list[float | None]:
        """A row without an expected answer has no score; one without an answer has 0.

        ``of``: what the sheet may call the batch whose answers these are.
        """
        if self.member is not None:
            answers = [_member(answer, self.member) for answer in answers]
        if self.sheet is None:
            return self._by_text(answers, str(self.expected))
        lines = answer_sheet(self.sheet).lines(custom_ids, of)
        if self.kind == "given":
            return [None if line is None else line.score for line in lines]
        return [self._judged(answer, line) for answer, line in zip(answers, lines, strict=True)]

    def _by_text(self, answers: Sequence[str | None], expected: str) -> list[float | None]:
        if self.kind == "regex":
            found = pc.match_substring_regex(pa.array(answers, pa.string()), expected)
            return [float(bool(one)) for one in found.to_pylist()]
        return [self._of(answer, expected) for answer in answers]

    def _judged(self, answer: str | None, line: SheetLine | None) -> float | None:
        if line is None or line.expected is None:
            return None
        return self._of(answer, _text(line.expected))

    def _of(self, answer: str | None, expected: str) -> float:
        if answer is None:
            return 0.0
        said, wanted = answer.strip().casefold(), expected.strip().casefold()
        return float(said == wanted if self.kind == "exact" else wanted in said)


def _member(answer: str | None, name: str) -> str | None:
    try:
        found = msgspec.json.decode(answer or "")
    except (msgspec.DecodeError, RecursionError):
        return None
    return _text(found[name]) if isinstance(found, dict) and name in found else None


def _text(value: object) -> str:
    """A text as it is, anything else as JSON writes it."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _refused(problem: str, param: str) -> BadRequest:
    return BadRequest(f"{problem}.", param=param, code="invalid_value")
