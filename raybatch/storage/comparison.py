"""Batches over the same input side by side: what each adds up to, which rows differ, and the rows themselves.

A row is its place in the input. Answers differ when their status or their text does; a side that has not
finished a row says nothing about it. Refuses to decide which files count and whether the inputs are the same:
the caller brings the parts as readers of a round see them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raybatch.core.model import PartFile
from raybatch.storage.merge import merged_batches
from raybatch.storage.parts import ANSWER, SCHEMA
from raybatch.storage.scores import ScoreRule

COMPARISONS_KEPT: Final = 4
JUMP_ROWS: Final = 5_000  #: reading so many rows for nothing is cheaper than opening the files again
LATENCY_SHARES: Final = (50, 90, 99)
SHOWN: Final = (*ANSWER, "latency_ms")  #: of each side
_SCHEMA: Final = pa.schema([SCHEMA.field(name) for name in ("index", "custom_id", *SHOWN)])

#: index, custom_id, differs, and ``sides``: for each what is ``SHOWN`` and its ``score``, or None
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Side:
    batch_id: str
    model: str | None
    parts: tuple[PartFile, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What an answer sheet may call it."""
        return (self.batch_id,) if self.model is None else (self.batch_id, self.model)


@dataclass(slots=True)
class Figures:
    """What the finished rows of one side add up to."""

    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    text_characters: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)  #: failed rows, by code
    #: ``LATENCY_SHARES`` percent of the completed rows took no longer; () without any
    latencies_ms: tuple[float, ...] = ()
    scored: int = 0  #: rows with a score
    score: float | None = None  #: their mean


@dataclass(frozen=True, slots=True)
class Comparison:
    indices: Any  #: of the rows that some side has finished, ascending
    differs: Any  #: one flag for each of them
    figures: tuple[Figures, ...]  #: of each side

    def rows(self, only_differing: bool) -> Any:
        return self.indices[self.differs] if only_differing else self.indices


@lru_cache(maxsize=COMPARISONS_KEPT)
def compare(home: Path, sides: tuple[Side, ...], rule: ScoreRule | None) -> Comparison:
    """One pass over the columns that answers are told by. The last few results are kept: nine bytes a row.

    Raises Corrupt naming the file, and BadRequest for a sheet that is none.
    """
    found = [_Adding() for _ in sides]
    indices, differs = [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
    with closing(_aligned(home, sides)) as groups:
        for group in groups:
            for side, batch, adding in zip(sides, group, found, strict=True):
                adding.add(batch, rule, side.names)
            places, told = _told(group)
            indices.append(places)
            differs.append(np.fromiter((_differ(row) for row in told), np.bool_, len(places)))
    figures = tuple(adding.figures() for adding in found)
    return Comparison(np.concatenate(indices), np.concatenate(differs), figures)


def compared_rows(
    home: Path, sides: Sequence[Side], rule: ScoreRule | None, *, after_index: int = -1
) -> Generator[Row]:
    """The rows that some side has finished, in input order, in constant memory, with their texts whole."""
    with closing(_aligned(home, sides, after_index)) as groups:
        for group in groups:
            answers = [_answers(side, batch, rule) for side, batch in zip(sides, group, strict=True)]
            for index in sorted(set().union(*answers)):
                of_row = [of_side.get(index) for of_side in answers]
                custom_id = next(answer["custom_id"] for answer in of_row if answer)
                told = [(answer["status_code"], answer["text"]) for answer in of_row if answer]
                yield {
                    "index": index,
                    "custom_id": custom_id,
                    "differs": _differ(told),
                    "sides": [_without_id(answer) for answer in of_row],
                }


def picked_rows(home: Path, sides: Sequence[Side], rule: ScoreRule | None, wanted: Any) -> list[Row]:
    """The rows at these indices, ascending; what lies far between them is not read."""
    found: list[Row] = []
    for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > JUMP_ROWS) + 1):
        if not len(run):
            continue
        chosen = set(run.tolist())
        with closing(compared_rows(home, sides, rule, after_index=int(run[0]) - 1)) as rows:
            for row in rows:
                if row["index"] in chosen:
                    found.append(row)
                if row["index"] >= run[-1]:
                    break
    return found


# -- reading the sides together ------------------------------------------------------------------------------


def _aligned(home: Path, sides: Sequence[Side], after_index: int = -1) -> Generator[list[pa.RecordBatch]]:
    """For stretch after stretch of the input the rows that each side has of it, perhaps none."""
    with ExitStack() as reading:
        sources = [
            reading.enter_context(
                closing(merged_batches(home, side.parts, _SCHEMA.names, after_index=after_index))
            )
            for side in sides
        ]
        held = [next(source, None) for source in sources]
        while live := [batch for batch in held if batch is not None]:
            cut = min(batch["index"][-1].as_py() for batch in live)
            group = []
            for number, batch in enumerate(held):
                if batch is None:
                    group.append(_NOTHING)
                    continue
                count = int(np.searchsorted(batch["index"].to_numpy(), cut, side="right"))
                group.append(batch.slice(0, count))
                held[number] = batch.slice(count) if count < batch.num_rows else next(sources[number], None)
            yield group


_NOTHING: Final = pa.RecordBatch.from_pylist([], schema=_SCHEMA)


def _told(group: Sequence[pa.RecordBatch]) -> tuple[Any, list[list[tuple[Any, Any]]]]:
    """The places of a stretch, and what the sides that finished each say there."""
    places = np.unique(np.concatenate([batch["index"].to_numpy() for batch in group]))
    told: list[list[tuple[Any, Any]]] = [[] for _ in places]
    for batch in group:
        at = np.searchsorted(places, batch["index"].to_numpy()).tolist()
        said = zip(batch["status_code"].to_pylist(), batch["text"].to_pylist(), strict=True)
        for place, one in zip(at, said, strict=True):
            told[place].append(one)
    return places, told


def _differ(told: Sequence[tuple[Any, Any]]) -> bool:
    return any(one != told[0] for one in told[1:])


def _answers(side: Side, batch: pa.RecordBatch, rule: ScoreRule | None) -> dict[int, Row]:
    scores = _scores(batch, rule, side.names)
    rows = batch.to_pylist()
    return {row.pop("index"): row | {"score": score} for row, score in zip(rows, scores, strict=True)}


def _without_id(answer: Row | None) -> Row | None:
    return None if answer is None else {name: answer[name] for name in (*SHOWN, "score")}


def _scores(batch: pa.RecordBatch, rule: ScoreRule | None, names: Sequence[str]) -> list[float | None]:
    if rule is None:
        return [None] * batch.num_rows
    texts = pc.if_else(_completed(batch), batch["text"], pa.scalar(None, pa.string()))
    return rule.scores(batch["custom_id"].to_pylist(), texts.to_pylist(), names)


def _completed(batch: pa.RecordBatch) -> Any:
    return pc.fill_null(pc.less(batch["status_code"], 400), False)


# -- adding up -----------------------------------------------------------------------------------------------


class _Adding:
    """The figures of a side while its rows go by."""

    def __init__(self) -> None:
        self._sums = Figures()
        self._latencies_ms = [np.empty(0, np.float32)]
        self._score_sum = 0.0

    def add(self, batch: pa.RecordBatch, rule: ScoreRule | None, names: Sequence[str]) -> None:
        sums, completed = self._sums, _completed(batch)
        good, bad = batch.filter(completed), batch.filter(pc.invert(completed))
        sums.completed += good.num_rows
        sums.failed += bad.num_rows
        sums.prompt_tokens += pc.sum(batch["prompt_tokens"]).as_py() or 0
        sums.completion_tokens += pc.sum(batch["completion_tokens"]).as_py() or 0
        sums.text_characters += pc.sum(pc.utf8_length(good["text"])).as_py() or 0
        sums.finish_reasons.update(reason for reason in good["finish_reason"].to_pylist() if reason)
        for code, status in zip(bad["error_code"].to_pylist(), bad["status_code"].to_pylist(), strict=True):
            sums.errors[code or (f"http_{status}" if status else "unknown")] += 1
        self._latencies_ms.append(good["latency_ms"].to_numpy().astype(np.float32))
        scores = [score for score in _scores(batch, rule, names) if score is not None]
        sums.scored += len(scores)
        self._score_sum += sum(scores)

    def figures(self) -> Figures:
        sums, latencies_ms = self._sums, np.concatenate(self._latencies_ms)
        if len(latencies_ms):
            sums.latencies_ms = tuple(np.percentile(latencies_ms, LATENCY_SHARES).tolist())
        if sums.scored:
            sums.score = self._score_sum / sums.scored
        return sums
