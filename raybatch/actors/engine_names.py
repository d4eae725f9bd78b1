"""Which engines the settings ask for, and what each may serve. An engine's id is its Ray actor's name."""

from __future__ import annotations

from dataclasses import dataclass

from raybatch.config import ModelSettings, Settings


@dataclass(frozen=True, slots=True)
class EngineName:
    engine_id: str
    models: tuple[ModelSettings, ...]  #: one, or all of them for a slot
    slot: bool
    number: int  #: from 0, among the engines that share this machine's cores


def engine_names(settings: Settings) -> list[EngineName]:
    """With ``engine.slots``, so many that serve all models in turns; else one for each model and replica."""
    if settings.engine.slots:
        return [
            EngineName(f"engine-slot-{number}", settings.models, True, number)
            for number in range(settings.engine.slots)
        ]
    return [
        EngineName(f"engine-{place}-{replica}", (model,), False, place * settings.engine.replicas + replica)
        for place, model in enumerate(settings.models)
        for replica in range(settings.engine.replicas)
    ]


def serving(settings: Settings, model: str) -> list[EngineName]:
    """Those that may serve a model, by any of its names."""
    return [name for name in engine_names(settings) if any(model in known.names for known in name.models)]
