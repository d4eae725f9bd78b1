"""A reader that goes on after a cursor gets every row once, whatever happens to the files meanwhile."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybatch.core.model import Batch, PartFile, Redrive, ResultRow, RowSpan
from raybatch.core.rounds import visible_parts
from raybatch.core.rows import bitmap_of
from raybatch.errors import BadRequest
from raybatch.storage.compaction import compact
from raybatch.storage.exports import jsonl
from raybatch.storage.parts import remove, write_part
from raybatch.storage.seen import NOTHING_SEEN, new_rows, parse_cursor

BATCH = Batch("batch_1", "default", "file-1", "/v1/chat/completions", "24h", 86_400.0, 0.0)


class World:
    """A batch whose rows are committed in any order, compacted, and run again in rounds."""

    def __init__(self, home: Path, total: int, seed: int) -> None:
        self.home, self.chance = home, random.Random(seed)
        self.batch = replace(BATCH, total=total)
        self.indices = self.chance.sample(range(total), total)  #: by position
        self.parts: list[PartFile] = []
        self.redrives: list[Redrive] = []
        self.left = list(range(total))
        self.names = 0

    def commit(self) -> None:
        """Some rows, mostly those next in turn; now and then with a row that is refused."""
        count = self.chance.randint(1, 6)
        positions = [self.left.pop(self.chance.randrange(min(3, len(self.left)))) for _ in self.left[:count]]
        done = [position for position in self.run_now() if position not in (*self.left, *positions)]
        refused = self.chance.sample(done, min(len(done), self.chance.randint(0, 1)))
        if rows := [self.row(position) for position in (*positions, *refused)]:
            part = write_part(self.home, "batch_1", self.name(), rows)
            self.parts.append(replace(part, masked=tuple(refused), round=self.batch.round))

    def compact(self) -> None:
        round_number = self.chance.randint(1, self.batch.round)
        of_round = [part for part in self.parts if part.round == round_number]
        group = self.chance.sample(of_round, min(len(of_round), 3))
        if group:
            run = replace(compact(self.home, "batch_1", self.name(), group), round=group[0].round)
            self.parts = [part for part in self.parts if part not in group] + [run]
            for part in group:
                remove(self.home, part)

    def retry(self) -> None:
        """When the batch has ended: some of its rows once more."""
        if self.left:
            return
        again = sorted(self.chance.sample(range(self.batch.total), self.chance.randint(1, self.batch.total)))
        self.batch = replace(self.batch, round=self.batch.round + 1)
        span = RowSpan(again[0], bitmap_of(position - again[0] for position in again), 1)
        self.redrives.append(Redrive("batch_1", self.batch.round, (span,)))
        self.left = again

    def read(self, after: str | None) -> tuple[list[bytes], str]:
        seen = NOTHING_SEEN if after is None else parse_cursor(after, self.batch, self.redrives)
        parts = visible_parts(self.parts, self.redrives, self.batch.round)
        new = new_rows(self.home, self.batch, parts, self.redrives, seen)
        return b"".join(jsonl(self.home, new.parts, "all", wanted=new.wanted)).splitlines(), new.cursor

    def run_now(self) -> list[int]:
        if not self.redrives:
            return list(range(self.batch.total))
        (span,) = self.redrives[-1].spans
        return [span.first + i for i in range(span.count) if span.rows >> i & 1]

    def row(self, position: int) -> ResultRow:
        index, line = self.indices[position], b"%d:%d" % (self.batch.round, position)
        texts = (None, 200, None, None, None, None, None)
        return ResultRow(position, index, *texts, 0, 0, 0, line, 1, "engine-1", 1.0, 2.0)

    def name(self) -> str:
        self.names += 1
        return f"part-{self.names}"


@given(
    total=st.integers(1, 30),
    seed=st.integers(0, 1_000),
    moves=st.lists(st.sampled_from(["commit", "commit", "compact", "retry", "read"]), max_size=40),
)
@settings(deadline=None, max_examples=40)
def test_a_reader_gets_every_row_once_and_none_twice(tmp_path_factory, total, seed, moves):
    world = World(tmp_path_factory.mktemp("home"), total, seed)
    had: Counter[bytes] = Counter()
    cursor = None
    for move in [*moves, "read", "read"]:
        if move == "read":
            lines, cursor = world.read(cursor)
            had.update(lines)
        else:
            getattr(world, move)()

    there, _ = world.read(None)
    assert set(there) <= set(had)
    assert set(had.values()) <= {1}
    assert world.read(cursor)[0] == []


def test_a_cursor_is_as_long_as_what_is_under_way(tmp_path):
    batch, chance = replace(BATCH, total=1_000_000), random.Random(1)
    there = [*range(9_000), *(place for place in range(9_000, 10_000) if chance.random() < 0.5)]
    row = World(tmp_path, 1, 1).row(0)
    rows = [replace(row, position=position, index=position) for position in there]
    parts = [write_part(tmp_path, "batch_1", f"part-{i}", rows[i::2]) for i in range(2)]

    cursor = new_rows(tmp_path, batch, parts, (), NOTHING_SEEN).cursor

    assert len(cursor) < 250
    assert parse_cursor(cursor, batch, ()).places.sum() == len(there)


@pytest.mark.parametrize("text", ["", "17", "abc", "é", "!" * 24, "A" * 22, "\x00", "A" * 9_000])
def test_what_is_no_cursor_is_refused(text):
    with pytest.raises(BadRequest) as refused:
        parse_cursor(text, BATCH, ())
    assert refused.value.param == "after"


def test_the_cursor_of_another_batch_and_a_torn_one_are_refused(tmp_path):
    world = World(tmp_path, 20, 1)
    world.commit()
    _, cursor = world.read(None)
    for text, batch in [(cursor, replace(BATCH, batch_id="batch_2", total=20)), (cursor[:-1], world.batch)]:
        with pytest.raises(BadRequest, match="is no cursor of this batch"):
            parse_cursor(text, batch, ())
