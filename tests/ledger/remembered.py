"""What two states must have in common for the one to be the other, remembered."""

from __future__ import annotations

from raybatch.core.state import State


def durable(state: State) -> tuple[object, ...]:
    """What a restart must bring back, order included where a decision depends on it.

    Batches are in the order of their ``created_at``, as the ledger has them. In the state, which a start
    makes from the journal, those created before the wall clock was set back come first all the same.
    """
    batches = dict(sorted(state.batches.items(), key=lambda item: item[1].created_at))
    parts = {batch_id: parts for batch_id, parts in state.parts.items() if parts}
    return (
        state.files,
        list(batches.items()),
        state.chunks,
        parts,
        state.next_token,
        state.next_chunk_id,
        state.redrives,
        state.log,
        state.subject_log,
        state.rates,
        state.next_entry_id,
        state.all_paused,
        [batch_id for batch_id in batches if batch_id in state.active],
    )
