from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pytest

from raybatch.cli.demo_questions import MAX_ROWS, SCORE_SQL, questions
from raybatch.errors import OperatorError


def test_two_hundred_thousand_rows_are_all_different() -> None:
    custom_ids: set[str] = set()
    prompts: set[int] = set()
    for line in questions(200_000, "smollm2-135m"):
        request = json.loads(line)
        custom_ids.add(request["custom_id"])
        prompts.add(hash(json.dumps(request["body"]["messages"])))
        assert request["body"]["metadata"]["answer"].strip()
    assert len(custom_ids) == 200_000
    assert len(prompts) == 200_000


def test_every_line_is_a_chat_request_for_the_named_model() -> None:
    for line in questions(600, "some-model"):
        assert b"\n" not in line
        request = json.loads(line)
        assert (request["method"], request["url"]) == ("POST", "/v1/chat/completions")
        assert request["body"]["model"] == "some-model"
        assert request["body"]["messages"][-1]["role"] == "user"
        assert all(isinstance(value, str) for value in request["body"]["metadata"].values())


def test_the_seed_decides_the_lines_and_a_longer_run_begins_like_a_shorter_one() -> None:
    assert list(questions(300, "m", seed=7)) == list(itertools.islice(questions(3_000, "m", seed=7), 300))
    assert set(questions(300, "m", seed=7)).isdisjoint(questions(300, "m", seed=8))


def test_an_answer_is_never_among_the_examples_shown_before_it() -> None:
    for body in _bodies(3_000):
        if body["metadata"]["kind"] in ("code", "place", "language", "capital"):
            shown = [m["content"] for m in body["messages"] if m["role"] == "assistant"]
            assert body["metadata"]["answer"] not in shown


def test_no_answer_dominates() -> None:
    answers = Counter(body["metadata"]["answer"] for body in _bodies(6_000))
    assert answers.most_common(1)[0][1] < 6_000 * 0.02


@pytest.mark.parametrize("rows", [0, -1, MAX_ROWS + 1])
def test_a_number_of_rows_out_of_range_is_refused_at_the_call(rows: int) -> None:
    with pytest.raises(OperatorError, match="1,000,000"):
        questions(rows, "m")


def test_perfect_answers_score_one_and_permuted_ones_near_zero() -> None:
    score, permuted_score = _scores(lambda body: f"It is {body['metadata']['answer'].upper()}.")["all"]
    assert score == 1.0
    assert permuted_score < 0.05


def test_a_model_that_says_the_same_to_everything_scores_no_better_than_permuted() -> None:
    score, permuted_score = _scores(lambda body: "London, United Kingdom")["all"]
    assert score < 0.05
    assert permuted_score == pytest.approx(score, abs=0.02)


def test_a_row_without_a_text_counts_as_wrong() -> None:
    scores = _scores(lambda body: None if body["metadata"]["kind"] == "code" else body["metadata"]["answer"])
    assert scores["code"][0] == 0.0
    assert scores["place"][0] == 1.0


def _bodies(rows: int) -> Iterator[dict[str, Any]]:
    return (json.loads(line)["body"] for line in questions(rows, "m"))


def _scores(answer: Callable[[dict[str, Any]], str | None]) -> dict[str, tuple[float, float]]:
    """Score and permuted score by kind, for a model that answers a body like ``answer``."""
    bodies = list(_bodies(600))
    with duckdb.connect() as con:
        con.execute("CREATE TABLE requests (batch_id TEXT, index BIGINT, body TEXT)")
        con.execute("CREATE TABLE results (batch_id TEXT, index BIGINT, text TEXT)")
        con.executemany(
            "INSERT INTO requests VALUES ('b', ?, ?)", [(i, json.dumps(b)) for i, b in enumerate(bodies)]
        )
        con.executemany(
            "INSERT INTO results VALUES ('b', ?, ?)", [(i, answer(b)) for i, b in enumerate(bodies)]
        )
        con.execute("INSERT INTO requests VALUES ('not a demo', 0, '{\"model\": \"m\"}')")
        con.execute("INSERT INTO results VALUES ('not a demo', 0, 'a text')")
        scores = con.execute(SCORE_SQL).fetchall()
    assert scores[-1][:2] == ("all", 600)
    return {kind: (score, permuted) for kind, _, score, permuted in scores}
