"""What goes between an engine and the scheduler of a small world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raybatch.core import events as e

Asked = e.EngineReport | e.PartWritten


@dataclass(frozen=True, slots=True)
class Message:
    """An event, or what is answered to it."""

    engine: int
    life: int
    event: Asked
    answer: Any = None

    @property
    def kind(self) -> str:
        """What its engine waits for."""
        return kind_of(self.event)

    @property
    def tokens(self) -> list[int]:
        if isinstance(self.event, e.PartWritten):
            return [piece.token for piece in self.event.slices]
        given = self.answer.leases if self.answer is not None else self.event.held
        return [one.token for one in given]

    def told(self) -> str:
        """In the words of a history."""
        who = f"e{self.engine}" + (f" (life {self.life})" if self.life > 1 else "")
        event, answer = self.event, self.answer
        if isinstance(event, e.PartWritten):
            rows = " and ".join(f"chunk {one.chunk_id} under {one.token}" for one in event.slices)
            return f"part of {who}, {rows}" if answer is None else ", ".join(map(str, answer))
        if answer is None:
            held = " and ".join(f"chunk {one.chunk_id} under {one.token}" for one in event.held) or "nothing"
            return f"report {event.seq} of {who}, holding {held}, wanting {event.wants_rows} rows"
        run = [f"run chunk {one.chunk_id} under {one.token}" for one in answer.leases]
        drop = [f"drop chunk {chunk_id}" for chunk_id in answer.dropped]
        return ", ".join((*run, *drop)) or "no change"


def kind_of(event: Asked) -> str:
    return "report" if isinstance(event, e.EngineReport) else "part"
