"""``/v1/models``: every name a request may use for a model of this cluster, and how that model is doing."""

from __future__ import annotations

from fastapi import APIRouter

from raybatch.actors.reads import ModelView, Overview
from raybatch.errors import NotFound, Unavailable
from raybatch.wire.openai_objects import Json, list_object, model_object
from serve_app.door import Door, TheDoor
from serve_app.health import model_state
from serve_app.openapi_schemas import answers

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=answers("ModelList"))
async def list_models(door: TheDoor) -> Json:
    views = await _views(door)
    return list_object([_shown(door, name, views) for name in door.settings.canonical()])


@router.get("/{name:path}", responses=answers("Model", 404))
async def get_model(name: str, door: TheDoor) -> Json:
    if name not in door.settings.canonical():
        message = f"The model '{name[:200]}' does not exist or you do not have access to it."
        raise NotFound(message, param="model", code="model_not_found")
    return _shown(door, name, await _views(door))


async def _views(door: Door) -> dict[str, ModelView]:
    """By id; empty while the scheduler is away, for the names are known without it."""
    try:
        overview: Overview = await door.scheduler.read("overview")
    except Unavailable:
        return {}
    return {view.model: view for view in overview.models}


def _shown(door: Door, name: str, views: dict[str, ModelView]) -> Json:
    view = views.get(door.settings.canonical()[name])
    return model_object(name, door.served_since, None if view is None else model_state(view))
