"""``/v1/models``: every name a request may use for a model of this cluster."""

from __future__ import annotations

from fastapi import APIRouter

from raybatch.errors import NotFound
from raybatch.wire.openai_objects import Json, list_object, model_object
from serve_app.door import TheDoor

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(door: TheDoor) -> Json:
    return list_object([model_object(name, door.served_since) for name in door.settings.canonical()])


@router.get("/{name:path}")
async def get_model(name: str, door: TheDoor) -> Json:
    if name not in door.settings.canonical():
        message = f"The model '{name[:200]}' does not exist or you do not have access to it."
        raise NotFound(message, param="model", code="model_not_found")
    return model_object(name, door.served_since)
