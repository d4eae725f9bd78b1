"""Which model a slot serves: an engine that is to hold the models of the configuration in turns.

A swap costs a load, so a model keeps its slot while it has work, at least for a turn when another one waits.
The next model is the one with the highest priority waiting; among equals the one served longest ago. A model
that could not be loaded is left alone for a while.
"""

from __future__ import annotations

from dataclasses import dataclass

from raybatch.core.events import EnginePhase, EngineReport, Now
from raybatch.core.fitness import Fitness
from raybatch.core.leasing import held_up
from raybatch.core.model import BatchStatus, ChunkState, ModelSpan
from raybatch.core.policy import Policy
from raybatch.core.state import State


@dataclass(frozen=True, slots=True)
class _Backlog:
    model: str
    priority: int  #: the highest of its batches
    order: int  #: of its oldest batch


def model_for(state: State, report: EngineReport, now: Now, policy: Policy) -> str | None:
    """The model the slot should load now; None: go on as it is."""
    if not report.slot or report.phase in (EnginePhase.LOADING, EnginePhase.DRAINING):
        return None
    current = report.models[0] if report.models else None
    if held_up(state) or report.verdict.fitness is Fitness.UNFIT:
        return None
    backlogs = _backlogs(state)
    mine = next((lot for lot in backlogs if lot.model == current), None)
    others = [lot for lot in backlogs if lot is not mine and _available(state, lot, report, now, policy)]
    if not others or (report.phase is EnginePhase.READY and not _turn_is_over(mine, others, report, policy)):
        return None
    chosen = min(
        others, key=lambda lot: (-lot.priority, state.model_served_mono.get(lot.model, 0.0), lot.order)
    )
    return chosen.model


def just_failed(state: State, now: Now, policy: Policy) -> bool:
    """A model could not be loaded a short while ago: no slot tries one unasked."""
    return any(now.mono - fault.at_mono < policy.model_retry_s for fault in state.model_faults.values())


def _turn_is_over(
    mine: _Backlog | None, others: list[_Backlog], report: EngineReport, policy: Policy
) -> bool:
    if mine is None:
        return not report.held
    if max(lot.priority for lot in others) > mine.priority:
        return True
    turn_s = max(policy.turn_s, policy.turn_loads_min * report.load_s)
    return report.ready_s >= turn_s and max(lot.priority for lot in others) == mine.priority


def _backlogs(state: State) -> list[_Backlog]:
    """Models with rows that nobody has leased, the oldest batch's first."""
    found: dict[str, _Backlog] = {}
    for order, batch_id in enumerate(state.active):
        batch = state.batches[batch_id]
        if batch.status is not BatchStatus.IN_PROGRESS or batch.paused_at is not None:
            continue
        for span in batch.by_model:
            if not span.uncut and not _any_idle(state, batch_id, span):
                continue
            known = found.get(span.model)
            priority = batch.priority if known is None else max(known.priority, batch.priority)
            found[span.model] = _Backlog(span.model, priority, order if known is None else known.order)
    return list(found.values())


def _any_idle(state: State, batch_id: str, span: ModelSpan) -> bool:
    return any(
        chunk.state is ChunkState.AVAILABLE and span.holds(chunk.first)
        for chunk in state.live_chunks(batch_id)
    )


def _available(state: State, lot: _Backlog, report: EngineReport, now: Now, policy: Policy) -> bool:
    """Not held by another live engine, and not found impossible to load just now."""
    if lot.model not in report.serves:
        return False
    fault = state.model_faults.get(lot.model)
    if fault is not None and now.mono - fault.at_mono < policy.model_retry_s:
        return False
    return not any(
        not entry.lost and lot.model in (entry.ordered, *_loaded(entry.report))
        for engine_id, entry in state.engines.items()
        if engine_id != report.engine_id
    )


def _loaded(report: EngineReport) -> tuple[str, ...]:
    return () if report.phase in (EnginePhase.STOPPED, EnginePhase.DIED) else report.models
