"""The ASGI application: which layers a request passes, and which routes there are. Needs no Ray."""

from __future__ import annotations

import time
from html import escape

from fastapi import FastAPI
from starlette.responses import HTMLResponse

import raybatch
from raybatch.actors.scheduler_port import SchedulerPort
from raybatch.config import Home, Settings
from raybatch.storage.blobs import BlobStore
from serve_app import admin, batches, events, failed, files, health, models, results, uploads
from serve_app.answers import Answers
from serve_app.door import Door, TheDoor
from serve_app.faults import add_fault_answers
from serve_app.guard import Guard
from serve_app.methods import add_head
from serve_app.openapi_schemas import describe


def build_app(home: Home, settings: Settings, scheduler: SchedulerPort) -> FastAPI:
    """Raises OperatorError for settings that would open the door to strangers."""
    Guard(_nowhere, settings.api)  # the layers themselves are made at the first request, too late to refuse
    app = FastAPI(
        title="raybatch",
        version=raybatch.__version__,
        docs_url=None,  # the usual pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.door = Door(home, settings, scheduler, BlobStore(home.files), served_since=time.time())
    for noun in (files, uploads, batches, events, results, failed, models, health, admin):
        app.include_router(noun.router)
    app.add_api_route("/", front_page, response_class=HTMLResponse, include_in_schema=False)
    add_head(app)
    describe(app)
    add_fault_answers(app)
    app.add_middleware(Guard, api=settings.api)
    app.add_middleware(Answers)  # added last: the outermost
    return app


async def front_page(door: TheDoor) -> HTMLResponse:
    served = ", ".join(escape(model.id) for model in door.settings.models) or "none"
    return HTMLResponse(FRONT_PAGE.format(version=raybatch.__version__, models=served))


FRONT_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>raybatch</title></head>
<body style="font-family: system-ui, sans-serif; max-width: 40rem; margin: 3rem auto">
<h1>raybatch {version}</h1>
<p>A batch inference server that speaks the OpenAI Batch API under <code>/v1</code>.</p>
<p>Models: {models}</p>
<p><a href="/health">Health</a>, <a href="/v1/models">models</a>, <a href="/v1/batches">batches</a>,
<a href="/openapi.json">the API's description</a></p>
</body>
</html>
"""


async def _nowhere(*_: object) -> None:
    """Stands for an app where only the settings are checked."""
