"""The tables are the law, and the drawing above them shows the same law."""

from __future__ import annotations

import re
from enum import StrEnum
from itertools import product

import pytest

from raybatch.core import lifecycle
from raybatch.core.lifecycle import BATCH, CHUNK, BatchMove, ChunkMove, next_state, next_status
from raybatch.core.model import TERMINAL, BatchStatus, ChunkState
from raybatch.errors import IllegalMove

MISSING_STATUS = [edge for edge in product(BatchStatus, BatchMove) if edge[1] not in BATCH[edge[0]]]
MISSING_STATE = [edge for edge in product(ChunkState, ChunkMove) if edge[1] not in CHUNK[edge[0]]]


@pytest.mark.parametrize(("status", "move"), MISSING_STATUS)
def test_a_batch_refuses_a_move_that_is_not_in_the_table(status: BatchStatus, move: BatchMove) -> None:
    with pytest.raises(IllegalMove, match=f"batch batch_1 is {status}: it cannot {move}"):
        next_status("batch_1", status, move)


@pytest.mark.parametrize(("state", "move"), MISSING_STATE)
def test_a_chunk_refuses_a_move_that_is_not_in_the_table(state: ChunkState, move: ChunkMove) -> None:
    with pytest.raises(IllegalMove, match=f"chunk 7 is {state}: it cannot {move}"):
        next_state(7, state, move)


def test_the_tables_know_every_state_and_terminal_ones_have_no_way_out() -> None:
    assert set(BATCH) == set(BatchStatus)
    assert set(CHUNK) == set(ChunkState)
    moves_on = {status: set(moves) - {BatchMove.REOPEN} for status, moves in BATCH.items()}
    assert {status for status, moves in moves_on.items() if not moves} == TERMINAL
    assert [state for state, moves in CHUNK.items() if not moves] == [ChunkState.COMPLETED]


def test_the_eight_words_are_openais() -> None:
    words = "validating failed in_progress finalizing completed expired cancelling cancelled"
    assert {str(status) for status in BatchStatus} == set(words.split())


def test_the_drawing_shows_every_word_of_the_tables_and_no_other() -> None:
    batch_drawing, chunk_drawing = (lifecycle.__doc__ or "").split("\nChunk\n")
    assert _drawn(batch_drawing.split("\n", 2)[2]) == (_values(set(BatchStatus)), _names(BatchMove))
    assert _drawn(chunk_drawing) == (_values(set(ChunkState)) | {"cut"}, _names(ChunkMove))


def _drawn(drawing: str) -> tuple[set[str], set[str]]:
    """States in small letters, moves in capitals."""
    drawing = drawing.replace("Batch (OpenAI's words)", "")
    return set(re.findall(r"\b[a-z_]{2,}\b", drawing)), set(re.findall(r"[A-Z]{2,}", drawing))


def _values(states: set[BatchStatus] | set[ChunkState]) -> set[str]:
    return {str(state) for state in states}


def _names(moves: type[StrEnum]) -> set[str]:
    return {move.name for move in moves}
