"""What was last seen of engines and models: lost with the process on purpose, for they report again."""

from __future__ import annotations

from dataclasses import dataclass

from raybatch.core.events import EngineReport


@dataclass(frozen=True, slots=True)
class EngineEntry:
    report: EngineReport
    seen_at_mono: float
    starts: tuple[float, ...]
    lost: bool = False
    ordered: str | None = None  #: the model a slot was told to serve and has not begun to load


@dataclass(frozen=True, slots=True)
class ModelFault:
    """Why a model could not be loaded when it was last tried."""

    error: str
    at_mono: float
