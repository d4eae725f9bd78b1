"""In which order the last rows of a batch enter, and what is learned of their lengths."""

from __future__ import annotations

import pytest

from raybatch.actors.held_lease import RequestRow
from raybatch.actors.last_wave import longest_first
from raybatch.actors.row_lengths import RowLengths

CHAT = "/v1/chat/completions"


def row(place: int, body: bytes = b"{}", limit_tokens: int = 100) -> RequestRow:
    return RequestRow(place, place, f"r{place}", body, limit_tokens=limit_tokens)


def chat(system: str, question: str) -> bytes:
    return f'{{"messages":[{{"role":"system","content":"{system}"}},"{question}"]}}'.encode()


def test_limits_tell_rows_apart_before_anything_has_ended() -> None:
    lengths = RowLengths()
    assert lengths.expected(row(0, limit_tokens=10)) < lengths.expected(row(1, limit_tokens=1000))


def test_what_rows_of_one_size_answered_is_expected_of_others_of_that_size() -> None:
    lengths = RowLengths()
    long_answers, short_answers = b"x" * 3000, b"x" * 100
    for place in range(50):
        lengths.note(row(place, long_answers), 90)
        lengths.note(row(place, short_answers), 10)
    assert lengths.expected(row(100, long_answers)) == pytest.approx(90, abs=5)
    assert lengths.expected(row(101, short_answers)) == pytest.approx(10, abs=5)
    assert lengths.expected(row(102, b"x" * 20)) == pytest.approx(50), "of a new size: as all so far"


def test_a_row_that_answers_no_tokens_is_expected_to_answer_none() -> None:
    lengths = RowLengths()
    lengths.note(row(0, limit_tokens=0), 0)
    assert lengths.expected(row(1, limit_tokens=0)) == 0


def test_the_longest_rows_come_first_and_equals_keep_their_order() -> None:
    tokens = [5.0, 80.0, 5.0, 30.0, 80.0]
    rows = [row(place, chat("", f"question {place}")) for place in range(5)]
    assert longest_first(rows, CHAT, lambda one: tokens[one.position]) == [1, 4, 3, 0, 2]


def test_rows_that_begin_alike_stay_together() -> None:
    tokens = [5.0, 80.0, 7.0, 30.0]
    systems = ["weather " * 40, "traffic " * 40]
    rows = [row(place, chat(systems[place % 2], f"question {place}")) for place in range(4)]
    assert longest_first(rows, CHAT, lambda one: tokens[one.position]) == [1, 3, 2, 0]


def test_a_beginning_that_all_rows_share_binds_none_of_them() -> None:
    tokens = [5.0, 80.0, 7.0, 30.0]
    rows = [row(place, chat("weather " * 40, f"question {place}")) for place in range(4)]
    assert longest_first(rows, CHAT, lambda one: tokens[one.position]) == [1, 3, 2, 0]
