"""A checker that has never failed is no evidence: each kind of damage is seeded and must be seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest

from jobs.checker import Stored, Verdict, check
from jobs.trial import upload_of

UPLOAD = upload_of([("a", "one"), ("b", "[[status=400]]"), ("c", "three"), ("d", "four")])


@dataclass
class Answers:
    """A clean batch of four, before something is done to it."""

    batch: dict[str, Any]
    output: list[dict[str, Any]]
    error: list[dict[str, Any]]
    stored: list[Stored]

    def verdict(self) -> Verdict:
        return check(UPLOAD, self.batch, _jsonl(self.output), _jsonl(self.error), self.stored)


@pytest.fixture
def answers() -> Answers:
    output = [_answered("a", "one"), _answered("c", "three"), _answered("d", "four")]
    refused = {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None}}
    error = [
        {"id": "row-b", "custom_id": "b", "response": {"status_code": 400, "body": refused}, "error": None}
    ]
    lines = [output[0], error[0], output[1], output[2]]
    batch = {
        "status": "completed",
        "request_counts": {"total": 4, "completed": 3, "failed": 1},
        "output_file_id": "file-o",
        "error_file_id": "file-e",
        "usage": {"input_tokens": 3, "output_tokens": 6},
    }
    stored = [
        Stored(index, line["custom_id"], line["response"]["status_code"], json.dumps(line))
        for index, line in enumerate(lines)
    ]
    return Answers(batch, output, error, stored)


def test_right_answers_are_clean(answers: Answers) -> None:
    assert answers.verdict() == Verdict()


def _lose(answers: Answers) -> None:
    del answers.output[1]


def _double(answers: Answers) -> None:
    answers.output.insert(1, answers.output[0])


def _double_under_another_id(answers: Answers) -> None:
    answers.output.insert(1, answers.output[0] | {"id": "row-z"})


@pytest.mark.parametrize(
    ("damage", "counter"),
    [(_lose, "lost"), (_double, "duplicated"), (_double_under_another_id, "duplicated")],
)
def test_rows_lost_and_doubled_are_counted(
    answers: Answers, damage: Callable[[Answers], None], counter: str
) -> None:
    damage(answers)
    verdict = answers.verdict()
    assert getattr(verdict, counter) == 1
    assert not verdict.clean


def _stranger(answers: Answers) -> None:
    answers.output[0]["custom_id"] = "z"


def _disorder(answers: Answers) -> None:
    answers.output.reverse()


def _swapped_words(answers: Answers) -> None:
    first, second = answers.output[0], answers.output[1]
    first["response"], second["response"] = second["response"], first["response"]


def _wrong_file(answers: Answers) -> None:
    answers.output.insert(1, answers.error.pop())


def _success_that_should_fail(answers: Answers) -> None:
    answers.error[0]["response"]["status_code"] = 200


def _silent_failure(answers: Answers) -> None:
    answers.error[0]["response"]["body"] = {}


def _unanswered_though_completed(answers: Answers) -> None:
    answers.error[0] |= {"response": None, "error": {"code": "batch_cancelled", "message": ""}}


def _miscounted(answers: Answers) -> None:
    answers.batch["request_counts"]["completed"] = 4


def _usage_twice(answers: Answers) -> None:
    answers.batch["usage"]["output_tokens"] *= 2


def _file_missing(answers: Answers) -> None:
    answers.batch["error_file_id"] = None


def _sql_lacks_a_row(answers: Answers) -> None:
    answers.stored.pop()


def _sql_has_a_row_twice(answers: Answers) -> None:
    answers.stored[1] = answers.stored[0]


def _sql_has_another_line(answers: Answers) -> None:
    answers.stored[2] = replace(answers.stored[2], line=answers.stored[2].line.replace("three", "tree"))


def _sql_has_another_id(answers: Answers) -> None:
    answers.stored[2] = replace(answers.stored[2], custom_id="a")


def _sql_has_another_status(answers: Answers) -> None:
    answers.stored[2] = replace(answers.stored[2], status_code=500)


@pytest.mark.parametrize(
    "damage",
    [
        _stranger,
        _disorder,
        _swapped_words,
        _wrong_file,
        _success_that_should_fail,
        _silent_failure,
        _unanswered_though_completed,
        _miscounted,
        _usage_twice,
        _file_missing,
        _sql_lacks_a_row,
        _sql_has_a_row_twice,
        _sql_has_another_line,
        _sql_has_another_id,
        _sql_has_another_status,
    ],
)
def test_whatever_else_does_not_agree_is_unexpected(
    answers: Answers, damage: Callable[[Answers], None]
) -> None:
    untouched = deepcopy(answers)
    damage(answers)
    assert answers != untouched
    assert answers.verdict().unexpected > 0


def _answered(custom_id: str, told: str) -> dict[str, Any]:
    body = {
        "choices": [{"message": {"content": f"echo: {told}"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    response = {"status_code": 200, "body": body}
    return {"id": f"row-{custom_id}", "custom_id": custom_id, "response": response, "error": None}


def _jsonl(answers: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(answer).encode() + b"\n" for answer in answers)
