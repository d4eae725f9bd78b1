"""Rows of two kinds in three orders, on an engine that remembers what it was handed."""

from __future__ import annotations

import pytest

from jobs import blend, parity
from jobs.arms import Measured
from jobs.blend import ANSWERS_FIRST, MIXED, PROMPTS_FIRST, SHORT_TOKENS, Sizes, rows_of_both_kinds
from jobs.cores import Processes
from jobs.prompts import Prompt
from jobs.runs import Finish
from raybatch.config import PACKAGED_MODEL, make_settings

SIZES = Sizes(rows=5, prompt_words=30, answer_tokens=40)


class Engine:
    """Is twice as slow at a row that is of the kind of the row before it."""

    name = "simulated"

    def __init__(self) -> None:
        self.seen: list[list[Prompt]] = []

    def processes(self) -> Processes:
        return {}

    def run(self, wanted: list[Prompt]) -> Measured:
        self.seen.append(wanted)
        at_s, before, finishes = 0.0, 0, []
        for prompt in wanted:
            at_s += 2.0 if prompt.tokens == before else 1.0
            before = prompt.tokens
            finishes.append(Finish(at_s, len(prompt.text.split()), prompt.tokens, 0))
        return Measured(at_s, tuple(finishes), {})


def test_both_kinds_are_there_and_another_seed_has_other_rows() -> None:
    rows = rows_of_both_kinds(SIZES, 0)
    assert sorted({(len(row.text.split()), row.tokens) for row in rows}) == [(11, 40), (31, SHORT_TOKENS)]
    assert rows == rows_of_both_kinds(SIZES, 0)
    assert not {row.text[:8] for row in rows} & {row.text[:8] for row in rows_of_both_kinds(SIZES, 1)}


def test_the_same_rows_run_in_three_orders_and_the_mixed_one_is_held_against_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parity, "REST_S", 0.0)
    engine = Engine()

    runs = blend.measure(engine, None, SIZES, rounds=2, say=lambda _: None)

    forwards = [PROMPTS_FIRST, MIXED, ANSWERS_FIRST]
    assert [run.arm for run in runs] == [*forwards, *reversed(forwards)]
    kinds = ["".join("a" if row.tokens > SHORT_TOKENS else "p" for row in rows) for rows in engine.seen[1:4]]
    assert kinds == ["pppppaaaaa", "papapapapa", "aaaaappppp"]
    settings = make_settings("cpu", models=(PACKAGED_MODEL,))
    ratios = blend.report(runs, settings, None, SIZES)["ratio"]
    assert ratios[f"{MIXED} ÷ {PROMPTS_FIRST}"].median == pytest.approx(1.8)
    assert ratios[f"{MIXED} ÷ {ANSWERS_FIRST}"].median == pytest.approx(1.8)
