"""Which arm runs when, on which rows, and what is told of it; engines are simulated."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import msgspec
import pytest

from jobs import parity, plots, prefixes, tables
from jobs.arms import Measured
from jobs.cores import Processes
from jobs.prefix_prompts import Sizes
from jobs.prefixes import FIFO, GROUPED, KEPT, ORACLE, Memory, OrderedArm
from jobs.prompts import Prompt
from jobs.runs import Finish, Run
from raybatch.config import PACKAGED_MODEL, ModelSettings, make_settings

SIZES = Sizes(prefixes=4, rows=3, prefix_words=20)
PREFIX_S, TOKEN_S = 1.0, 0.01


class Engine:
    """Remembers the last prefix alone; a row with another one takes longer."""

    name = "simulated"

    def __init__(self) -> None:
        self.seen: list[list[Prompt]] = []

    def processes(self) -> Processes:
        return {}

    def run(self, wanted: list[Prompt]) -> Measured:
        self.seen.append(wanted)
        at_s, finishes = 0.0, []
        for prefix, prompts in groupby(wanted, key=lambda prompt: prompt.text.partition(" Question ")[0]):
            at_s += PREFIX_S
            for place, prompt in enumerate(prompts):
                at_s += TOKEN_S * prompt.tokens
                cached = len(prefix.split()) if place else 0
                finishes.append(Finish(at_s, len(prompt.text.split()), prompt.tokens, cached))
        return Measured(at_s, tuple(finishes), {})


class Grouping(Engine):
    def run(self, wanted: list[Prompt]) -> Measured:
        return super().run(prefixes.oracle_sorted(wanted))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    monkeypatch.setattr(parity, "REST_S", 0.0)
    llm = Engine()
    arms = (
        OrderedArm(GROUPED, Grouping()),
        OrderedArm(KEPT, Engine()),
        OrderedArm(FIFO, llm),
        OrderedArm(ORACLE, llm, prefixes.oracle_sorted),
    )
    return prefixes.measure(arms, None, SIZES, rounds=2, say=lambda _: None)


def test_every_second_round_is_in_reverse_and_all_arms_of_a_round_have_its_rows(runs: list[Run]) -> None:
    forwards = [GROUPED, KEPT, FIFO, ORACLE]

    assert [run.arm for run in runs] == [*forwards, *reversed(forwards)]
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4
    assert {len(run.finishes) for run in runs} == {SIZES.prefixes * SIZES.rows}


def test_the_oracle_alone_is_handed_sorted_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "REST_S", 0.0)
    llm, other = Engine(), Engine()
    arms = (OrderedArm(KEPT, other), OrderedArm(FIFO, llm), OrderedArm(ORACLE, llm, prefixes.oracle_sorted))

    prefixes.measure(arms, None, SIZES, rounds=1, say=lambda _: None)

    (_, kept), (_, _, in_file_order, known) = other.seen, llm.seen
    assert kept == in_file_order != known
    assert known == prefixes.oracle_sorted(kept)


def test_ratios_hold_the_grouping_arm_against_each_peer(runs: list[Run], tmp_path: Path) -> None:
    settings = make_settings("cpu", Memory(1_000, 4).assignments, models=(PACKAGED_MODEL,))

    report = prefixes.report(runs, settings, None, SIZES)

    ratios = report["ratio"]
    assert ratios["wall: grouped ÷ oracle"].median == pytest.approx(1.0)
    assert ratios["wall: grouped ÷ file order"].median > 1
    assert ratios["wall: grouped ÷ LLM.generate in file order"] == ratios["wall: grouped ÷ file order"]
    assert report["arms"][GROUPED]["cached_share"].low > report["arms"][KEPT]["cached_share"].high
    assert msgspec.json.decode(msgspec.json.encode(report))["sizes"]["prefixes"] == SIZES.prefixes
    assert tables.in_orders(runs, ratios, "prefixes").row_count == 4
    plots.in_orders(runs, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_memory_is_counted_in_whole_blocks() -> None:
    settings = make_settings("cpu", Memory(kv_tokens=1_000, at_once=4).assignments)

    assert settings.vllm.max_num_seqs == 4
    assert settings.vllm.extra == {"block_size": 32, "num_gpu_blocks_override": 32}


def test_the_two_raybatches_differ_in_grouping_and_port_alone(tmp_path: Path) -> None:
    model = ModelSettings("m", str(tmp_path))

    grouping, keeping = prefixes.both_settings(model, tmp_path, None, Memory(1_000, 4), ("engine.flush_s=1",))

    assert (grouping.intake.group_prefixes, keeping.intake.group_prefixes) == (True, False)
    assert grouping.api.port != keeping.api.port
    assert (grouping.vllm, grouping.engine, grouping.models) == (keeping.vllm, keeping.engine, keeping.models)
