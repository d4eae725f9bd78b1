"""``/health``: what runs, and what is wrong. 503 exactly when a create would be answered 503; a model that is
still loading is no fault, for batches are taken in meanwhile.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from raybatch.actors.reads import EngineView, Overview
from raybatch.core.events import EnginePhase
from raybatch.errors import Unavailable
from raybatch.wire.openai_objects import Json
from serve_app.door import Door, TheDoor

router = APIRouter(prefix="/health", tags=["health"])

CLOSED = {
    "draining": "the server is shutting down and takes no new batch",
    "disk_full": "the disk is full: free some space",
}  #: scheduler states in which a create is refused, and why


@router.get("")
async def get_health(door: TheDoor) -> Response:
    found = await _overview(door)
    if isinstance(found, Unavailable):
        refusal = {"status": "unavailable", "reasons": [found.message], "scheduler": None}
        return JSONResponse(refusal, 503, {"Retry-After": str(found.retry_after_s)})
    status, reasons = _verdict(found)
    shown: Json = {
        "status": status,
        "reasons": reasons,
        "scheduler": {
            "state": found.state,
            "version": found.version,
            "up_s": round(found.up_s, 1),
            "commits": found.commits,
        },
        "engines": [_engine(engine) for engine in found.engines],
        "models": [model.id for model in door.settings.models],
        "queue": {"batches": found.batches, "rows": found.queued_rows},
    }
    return JSONResponse(shown, 503 if found.state in CLOSED else 200)


@router.get("/live")
async def get_live() -> Json:
    """This process answers. Says nothing about any other."""
    return {"status": "ok"}


@router.get("/ready")
async def get_ready(door: TheDoor) -> Response:
    """200 when a create would be taken."""
    found = await _overview(door)
    reason = found.message if isinstance(found, Unavailable) else CLOSED.get(found.state)
    if reason is not None:
        return JSONResponse({"status": "unavailable", "reasons": [reason]}, 503)
    return JSONResponse({"status": "ok"})


async def _overview(door: Door) -> Overview | Unavailable:
    try:
        overview: Overview = await door.scheduler.read("overview")
    except Unavailable as error:
        return error
    return overview


def _verdict(overview: Overview) -> tuple[str, list[str]]:
    """ok, loading (no engine is ready), degraded (one is lost or failed), unavailable (takes no batch)."""
    reasons = [reason for engine in overview.engines if (reason := _engine_fault(engine))]
    if overview.state in CLOSED:
        return "unavailable", [CLOSED[overview.state], *reasons]
    ready = any(engine.phase is EnginePhase.READY and not engine.lost for engine in overview.engines)
    if reasons:
        return "degraded", reasons
    return ("ok", []) if ready else ("loading", ["no engine is ready yet; batches are taken meanwhile"])


def _engine_fault(engine: EngineView) -> str | None:
    if engine.lost:
        return f"engine {engine.engine_id} was last heard of {engine.silent_s:.0f} s ago"
    if engine.phase is EnginePhase.FAILED:
        return f"engine {engine.engine_id} failed: {engine.error or 'no reason given'}"
    return None


def _engine(engine: EngineView) -> dict[str, Any]:
    return {
        "id": engine.engine_id,
        "models": list(engine.models),
        "phase": "lost" if engine.lost else engine.phase.value,
        "heartbeat_age_s": round(engine.silent_s, 1),
        "running": engine.running,
        "window": engine.window,
        "held_rows": engine.held_rows,
        "rows_per_s": round(engine.rows_per_s, 3),
        "tokens_per_s": round(engine.tokens_per_s, 3),
        "error": engine.error,
    }
