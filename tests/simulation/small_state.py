"""What the scheduler of a small world remembers: at first, once more, out of time, and after a death."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Final

from raybatch.core import changes as c
from raybatch.core import events as e
from raybatch.core.decide import decide, recover
from raybatch.core.holdings import Holdings
from raybatch.core.model import File
from raybatch.core.policy import Policy
from raybatch.core.state import State

NOW: Final = e.Now(wall=0.0, mono=0.0)
LONG_AGO_MONO: Final = -1e9
POLICY: Final = Policy()
FIELDS: Final = [field.name for field in fields(State)]
MODEL, BATCH_ID = "m", "batch-1"


def begun(rows: int) -> State:
    """One batch of so many rows is taken in, and no engine is there yet."""
    names = (BATCH_ID, "t", "file-1", "out-1", "err-1")
    events: tuple[e.Event, ...] = (
        e.FileStored("", File("file-1", "t", "batch", "in.jsonl", 1, 0.0)),
        e.BatchAsked("", *names, "/v1/chat/completions", "24h", 86_400.0, None, 0, "key", None, False),
        e.IntakeEnded(BATCH_ID, rows, MODEL, rows, ()),
    )
    state = State()
    for event in events:
        for change in decide(state, event, NOW, POLICY).changes:
            if not isinstance(change, c.Logged):
                state.apply(change)
    return state


def recovered(left: State) -> State:
    """Of a scheduler that knows what it finds; the first tick gives each lease its time."""
    memory = State()
    memory.load(left.images())
    for change in (*recover(memory).changes, *decide(memory, e.Tick(), NOW, POLICY).changes):
        memory.apply(change)
    return memory


def overdue(memory: State, chunk_id: int) -> State:
    late = copied(memory)
    late.lease_deadlines[chunk_id] = LONG_AGO_MONO
    return late


def silent(memory: State, engine_id: str) -> State:
    late = copied(memory)
    late.engines[engine_id] = replace(late.engines[engine_id], seen_at_mono=LONG_AGO_MONO)
    return late


def copied(state: State) -> State:
    """Down to what is never changed in place."""
    known = {name: getattr(state, name) for name in FIELDS}
    copies = {name: _copy(value) if type(value) is dict else value for name, value in known.items()}
    holdings = (_copy(getattr(state.holdings, field.name)) for field in fields(Holdings))
    return State(**copies | {"holdings": Holdings(*holdings)})


def _copy(known: dict[Any, Any]) -> dict[Any, Any]:
    return {key: dict(value) if type(value) is dict else value for key, value in known.items()}
