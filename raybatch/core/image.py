"""How remembered entities look after a change, as the ledger and a snapshot are told of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raybatch.core.model import Batch, Chunk, File, LogEntry, ModelRate, PartFile, Redrive

if TYPE_CHECKING:
    from raybatch.core.state import State

Entity = File | Batch | Chunk | PartFile | Redrive | LogEntry | ModelRate | int


@dataclass(frozen=True, slots=True)
class Image:
    """How one remembered entity looks after a change; ``entity`` None means it is gone."""

    table: str  #: files, batches, chunks, parts, redrives, log, rates, counters
    key: str | int
    entity: Entity | None
    batch_id: str | None = None  #: for parts


def images_of(state: State) -> tuple[Image, ...]:
    """Everything durable, for a snapshot."""
    return (
        *(Image("files", file.file_id, file) for file in state.files.values()),
        *(Image("batches", batch.batch_id, batch) for batch in state.batches.values()),
        *(Image("chunks", chunk.chunk_id, chunk) for chunk in state.chunks.values()),
        *(
            Image("parts", part.part_id, part, batch_id)
            for batch_id, parts in state.parts.items()
            for part in parts.values()
        ),
        *(redrive_image(drive) for drives in state.redrives.values() for drive in drives.values()),
        *(Image("log", entry.entry_id, entry) for entry in state.log.values()),
        *(Image("rates", rate.model, rate) for rate in state.rates.values()),
        *(
            Image("counters", name, getattr(state, name))
            for name in ("next_token", "next_chunk_id", "next_entry_id", "all_paused")
        ),
    )


def redrive_image(redrive: Redrive) -> Image:
    return Image("redrives", redrive_key(redrive.batch_id, redrive.round), redrive)


def redrive_key(batch_id: str, round_: int) -> str:
    return f"{batch_id}/{round_}"
