"""``/admin``: what the command line on this machine asks. Its token is a file only the owner can read."""

from __future__ import annotations

import json

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from raybatch.actors.reads import BatchRows, Overview
from raybatch.core.events import DrainAsked, PauseAsked
from raybatch.core.model import LogEntry
from raybatch.errors import BadRequest, Unauthorized
from raybatch.wire.openai_objects import Json
from serve_app.door import Door, TheDoor, new_reply_to, small_body
from serve_app.guard import bearer, same_secret
from serve_app.health import health
from serve_app.threads import in_thread


async def _check_token(request: Request, door: TheDoor) -> None:
    token_path = door.home.run / "admin_token"
    try:
        expected = (await in_thread(token_path.read_text)).strip()
    except FileNotFoundError:
        expected = ""
    given = bearer(request.headers.get("authorization", ""))
    if not expected or not same_secret(given, expected):
        raise Unauthorized(
            "Admin routes need the header 'Authorization: Bearer <token>' with the token that lies in "
            f"'{token_path.name}' of this server's run directory.",
            code="invalid_admin_token",
        )


router = APIRouter(prefix="/admin", dependencies=[Depends(_check_token)], include_in_schema=False)


class Switch(msgspec.Struct):
    on: bool


@router.post("/drain")
async def post_drain(request: Request, door: TheDoor) -> Json:
    """Start no new row and take no new batch, or go on."""
    on: bool = await door.scheduler.ask(DrainAsked(new_reply_to(), await _switch(request)))
    return {"draining": on}


@router.post("/pause")
async def post_pause(request: Request, door: TheDoor) -> Json:
    """Start no new row of any batch, or go on. Batches are taken in meanwhile."""
    asked = PauseAsked(new_reply_to(), door.tenant, None, await _switch(request))
    on: bool = await door.scheduler.ask(asked)
    return {"paused": on}


@router.get("/overview")
async def get_overview(door: TheDoor) -> Json:
    overview: Overview = await door.scheduler.read("overview")
    return {
        "overview": msgspec.to_builtins(overview),
        "health": health(overview),
        "settings": _settings_summary(door),
    }


@router.get("/manifest")
async def get_manifest(door: TheDoor) -> Response:
    """Every batch and the files that hold its rows, of all tenants and all rounds, oldest first."""
    manifest: tuple[BatchRows, ...] = await door.scheduler.read("manifest", None)
    return await in_thread(lambda: _wide_json(manifest))


@router.get("/log")
async def get_log(door: TheDoor) -> Response:
    """What happened, to all batches, all engines and the server itself, oldest first."""
    log: tuple[LogEntry, ...] = await door.scheduler.read("whole_log")
    return await in_thread(lambda: _wide_json(log))


async def _switch(request: Request) -> bool:
    try:
        return msgspec.json.decode(await small_body(request), type=Switch).on
    except msgspec.DecodeError as error:
        raise BadRequest(f'Expected {{"on": true}} or {{"on": false}}: {error}.') from None


def _wide_json(value: object) -> Response:
    """By the standard library's encoder: bitmaps are wider than 64 bits."""
    content = json.dumps(msgspec.to_builtins(value), separators=(",", ":"))
    return Response(content, media_type="application/json")


def _settings_summary(door: Door) -> Json:
    settings = door.settings
    return {
        "profile": settings.profile,
        "models": [model.id for model in settings.models],
        "engine": settings.engine.kind,
        "replicas": settings.engine.replicas,
        "host": settings.api.host,
        "port": settings.api.port,
        "key": settings.api.key_sha256 is not None,
    }
