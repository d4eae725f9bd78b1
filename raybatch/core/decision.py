"""What one event leads to."""

from __future__ import annotations

from dataclasses import dataclass

from raybatch.core.changes import Change
from raybatch.core.commands import Command


@dataclass(frozen=True, slots=True)
class Decision:
    """``commands`` are sent only after the durable ones of ``changes`` are remembered."""

    changes: tuple[Change, ...] = ()
    commands: tuple[Command, ...] = ()
