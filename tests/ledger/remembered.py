"""What two states must have in common for the one to be the other, remembered."""

from __future__ import annotations

from raybatch.core.state import State


def durable(state: State) -> tuple[object, ...]:
    """What a restart must bring back, order included where a decision depends on it.

    The order of a batch's parts decides only which of many small files are merged first.
    """
    parts = {batch_id: parts for batch_id, parts in state.parts.items() if parts}
    return (
        state.files,
        list(state.batches.items()),
        list(state.chunks.items()),
        parts,
        state.next_token,
        state.next_chunk_id,
        state.redrives,
        list(state.log.items()),
        state.subject_log,
        state.rates,
        state.next_entry_id,
        state.all_paused,
        list(state.active),
        {batch_id: list(chunks) for batch_id, chunks in state.batch_chunks.items() if chunks},
    )
