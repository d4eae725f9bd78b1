"""The law: which move an entity may make in which state. A missing entry is the error.

Batch (OpenAI's words)

    validating --VALIDATE--> in_progress --FINALIZE--> finalizing --COMPLETE--> completed
        |  \\--FAIL--> failed      |                       \\--EXPIRE--> expired
        +--------CANCEL-----------+--> cancelling --CLOSE--> cancelled

    completed, expired, cancelled --REOPEN--> in_progress

Chunk

    (cut) --> leased --COVER--> completed
               |  ^
        RELEASE|  |GRANT
               v  |
             available
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from raybatch.core.model import BatchStatus, ChunkState
from raybatch.errors import IllegalMove


class BatchMove(StrEnum):
    VALIDATE = "validate"
    FAIL = "fail"
    FINALIZE = "finalize"
    COMPLETE = "complete"
    EXPIRE = "expire"
    CANCEL = "cancel"
    CLOSE = "close"
    REOPEN = "reopen"


class ChunkMove(StrEnum):
    GRANT = "grant"
    RELEASE = "release"
    COVER = "cover"


BATCH: Final[dict[BatchStatus, dict[BatchMove, BatchStatus]]] = {
    BatchStatus.VALIDATING: {
        BatchMove.VALIDATE: BatchStatus.IN_PROGRESS,
        BatchMove.FAIL: BatchStatus.FAILED,
        BatchMove.CANCEL: BatchStatus.CANCELLING,
    },
    BatchStatus.IN_PROGRESS: {
        BatchMove.FINALIZE: BatchStatus.FINALIZING,
        BatchMove.CANCEL: BatchStatus.CANCELLING,
    },
    BatchStatus.FINALIZING: {  # on the way to completed for no time at all: one seen so is about to expire
        BatchMove.COMPLETE: BatchStatus.COMPLETED,
        BatchMove.EXPIRE: BatchStatus.EXPIRED,
    },
    BatchStatus.CANCELLING: {BatchMove.CLOSE: BatchStatus.CANCELLED},
    BatchStatus.FAILED: {},
    BatchStatus.COMPLETED: {BatchMove.REOPEN: BatchStatus.IN_PROGRESS},
    BatchStatus.EXPIRED: {BatchMove.REOPEN: BatchStatus.IN_PROGRESS},
    BatchStatus.CANCELLED: {BatchMove.REOPEN: BatchStatus.IN_PROGRESS},
}

CHUNK: Final[dict[ChunkState, dict[ChunkMove, ChunkState]]] = {
    ChunkState.AVAILABLE: {ChunkMove.GRANT: ChunkState.LEASED},
    ChunkState.LEASED: {
        ChunkMove.RELEASE: ChunkState.AVAILABLE,
        ChunkMove.COVER: ChunkState.COMPLETED,
    },
    ChunkState.COMPLETED: {},
}


def next_status(batch_id: str, status: BatchStatus, move: BatchMove) -> BatchStatus:
    """Raises IllegalMove when the table has no such edge."""
    try:
        return BATCH[status][move]
    except KeyError:
        raise IllegalMove(f"batch {batch_id} is {status}: it cannot {move}") from None


def next_state(chunk_id: int, state: ChunkState, move: ChunkMove) -> ChunkState:
    """Raises IllegalMove when the table has no such edge."""
    try:
        return CHUNK[state][move]
    except KeyError:
        raise IllegalMove(f"chunk {chunk_id} is {state}: it cannot {move}") from None
