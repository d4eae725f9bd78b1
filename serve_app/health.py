"""``/health``: what runs, and what is wrong. 503 exactly when a create would be answered 503; a model that is
still loading is no fault, for batches are taken in meanwhile.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from raybatch.actors.reads import EngineView, ModelView, Overview
from raybatch.core.events import EnginePhase
from raybatch.core.fitness import Fitness, GpuReading
from raybatch.errors import Unavailable
from raybatch.wire.openai_objects import Json
from serve_app.door import Door, TheDoor
from serve_app.openapi_schemas import answers

router = APIRouter(prefix="/health", tags=["health"])


@router.get("", responses=answers("Health") | {503: answers("Health")[200]})
async def get_health(door: TheDoor) -> Response:
    found = await _overview(door)
    if isinstance(found, Unavailable):
        refusal = {"status": "unavailable", "reasons": [found.message], "scheduler": None}
        return JSONResponse(refusal, 503, {"Retry-After": str(found.retry_after_s)})
    if found.closed is not None:
        return JSONResponse(health(found), 503, {"Retry-After": str(found.closed.retry_after_s or 1)})
    return JSONResponse(health(found))


@router.get("/live", responses=answers("Readiness"))
async def get_live() -> Json:
    """This process answers. Says nothing about any other."""
    return {"status": "ok"}


@router.get("/ready", responses=answers("Readiness") | {503: answers("Readiness")[200]})
async def get_ready(door: TheDoor) -> Response:
    """200 when a create would be taken."""
    found = await _overview(door)
    closed = found if isinstance(found, Unavailable) else found.closed
    if closed is not None:
        return JSONResponse({"status": "unavailable", "reasons": [closed.message]}, 503)
    return JSONResponse({"status": "ok"})


def health(overview: Overview) -> Json:
    """The whole answer, for whoever shows it."""
    status, reasons = _verdict(overview)
    return {
        "status": status,
        "reasons": reasons,
        "scheduler": {
            "state": overview.state,
            "version": overview.version,
            "up_s": round(overview.up_s, 1),
            "commits": overview.commits,
        },
        "paused": overview.state == "paused",
        "quiet": None if overview.quiet is None else overview.quiet.value,
        "disk_free_bytes": overview.disk_free_bytes,
        "engines": [_engine(engine) for engine in overview.engines],
        "models": [_model(model) for model in overview.models],
        "queue": {"batches": overview.batches, "rows": overview.queued_rows},
    }


async def _overview(door: Door) -> Overview | Unavailable:
    try:
        overview: Overview = await door.scheduler.read("overview")
    except Unavailable as error:
        return error
    return overview


def _verdict(overview: Overview) -> tuple[str, list[str]]:
    """ok, loading (no engine is ready), degraded (something is lost, failed or unfit), unavailable (takes no
    batch).
    """
    reasons = [reason for engine in overview.engines for reason in _engine_faults(engine)]
    failed_there = {model for engine in overview.engines if engine.error for model in engine.models}
    reasons += [
        f"model {model.model} could not be loaded: {model.error}"
        for model in overview.models
        if model.state == "failed" and model.model not in failed_there
    ]
    if overview.closed is not None:
        return "unavailable", [overview.closed.message, *reasons]
    if reasons:
        return "degraded", reasons
    if any(engine.phase in _ABLE and not engine.lost for engine in overview.engines):
        return "ok", []
    return "loading", ["no engine is ready yet; batches are taken meanwhile"]


_ABLE = (EnginePhase.READY, EnginePhase.IDLE)


def _engine_faults(engine: EngineView) -> list[str]:
    name = f"engine {engine.engine_id}"
    if engine.lost:
        return [f"{name} was last heard of {engine.silent_s:.0f} s ago"]
    if engine.phase in (EnginePhase.FAILED, EnginePhase.DIED):
        return [f"{name} {engine.phase}: {engine.error or 'no reason given'}"]
    if engine.verdict.fitness is Fitness.FIT:
        return []
    return [f"{name} is {engine.verdict.fitness}: {reason}" for reason in engine.verdict.reasons or ("GPU",)]


def _engine(engine: EngineView) -> Json:
    return {
        "id": engine.engine_id,
        "models": list(engine.models),
        "phase": "lost" if engine.lost else engine.phase.value,
        "heartbeat_age_s": round(engine.silent_s, 1),
        "running": engine.running,
        "window": engine.window,
        "held_rows": engine.held_rows,
        "batches": list(engine.batches),
        "rows_per_s": round(engine.rows_per_s, 3),
        "tokens_per_s": round(engine.tokens_per_s, 3),
        "kv_cache_usage": round(engine.kv_cache_usage, 3),
        "gpus": [_gpu(gpu) for gpu in engine.gpus],
        "verdict": {
            "fitness": engine.verdict.fitness.value,
            "window_share": engine.verdict.window_share,
            "reasons": list(engine.verdict.reasons),
        },
        "error": engine.error,
    }


def _gpu(gpu: GpuReading) -> Json:
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_total_bytes": gpu.memory_total_bytes,
        "memory_used_bytes": gpu.memory_used_bytes,
        "memory_others_bytes": gpu.memory_others_bytes,
        "temperature_c": gpu.temperature_c,
        "power_w": round(gpu.power_w, 1),
        "power_limit_w": round(gpu.power_limit_w, 1),
        "utilization": round(gpu.utilization, 3),
        "throttle_reasons": list(gpu.throttle_reasons),
        "ecc_uncorrected": gpu.ecc_uncorrected,
        "lost": gpu.lost,
    }


def _model(model: ModelView) -> Json:
    return {"id": model.model, **model_state(model)}


def model_state(model: ModelView) -> Json:
    """``tokens_per_s`` and ``rows_per_s``: as last measured, null before."""
    rate = model.rate
    return {
        "state": model.state,
        "engines": list(model.engines),
        "queued_rows": model.queued_rows,
        "tokens_per_s": None if rate is None else round(rate.tokens_per_s, 1),
        "rows_per_s": None if rate is None else round(rate.rows_per_s, 3),
        "error": model.error,
    }
