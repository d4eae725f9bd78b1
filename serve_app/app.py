"""The ASGI application: which layers a request passes, and which routes there are. Needs no Ray."""

from __future__ import annotations

import time

from fastapi import FastAPI

import raybatch
from raybatch.actors.scheduler_port import SchedulerPort
from raybatch.config import Home, Settings
from raybatch.storage.blobs import BlobStore
from serve_app import (
    admin,
    batches,
    comparisons,
    datasets,
    events,
    failed,
    files,
    health,
    models,
    results,
    rows,
    uploads,
)
from serve_app.answers import Answers
from serve_app.console import Console
from serve_app.door import Door
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
    nouns = (
        files,
        uploads,
        batches,
        events,
        results,
        rows,
        failed,
        comparisons,
        datasets,
        models,
        health,
        admin,
    )
    for noun in nouns:
        app.include_router(noun.router)
    add_head(app)
    describe(app)
    add_fault_answers(app)
    app.add_middleware(Guard, api=settings.api)
    app.add_middleware(Console)  # before the guard: its files are for whoever has yet to give the key
    app.add_middleware(Answers)  # added last: the outermost
    return app


async def _nowhere(*_: object) -> None:
    """Stands for an app where only the settings are checked."""
