"""The HTTP door as a Ray Serve application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ray import serve
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raybatch.config import Home, Settings
from serve_app.answers import REQUEST_ID_HEADER

APP_NAME = "raybatch"
ONGOING_REQUESTS_MAX = 200
PIECES_QUEUED_MAX = 4  #: of one answer, each of about 1 MiB


@serve.ingress()
class HttpDoor:
    """One replica: it reads the settings of its home and builds the app when it starts."""

    def __init__(self, home_path: str) -> None:
        self._home = Home(Path(home_path))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        from raybatch.actors.scheduler_handle import RayScheduler
        from serve_app.app import build_app

        return _FitForServe(build_app(self._home, self._home.load(), RayScheduler(self._home)))


DEPLOYMENT = serve.deployment(
    name="door",
    num_replicas=1,
    max_ongoing_requests=ONGOING_REQUESTS_MAX,
    ray_actor_options={"num_cpus": 0},
    graceful_shutdown_timeout_s=5.0,
    graceful_shutdown_wait_loop_s=0.5,
)(HttpDoor)


def deploy(home: Home, settings: Settings) -> None:
    """Serve ``home`` at the address of ``settings``. Ray is connected; returns once requests are answered."""
    serve.start(
        proxy_location="HeadOnly",
        http_options={
            "host": settings.api.host,
            "port": settings.api.port,
            "request_timeout_s": None,  # an upload or a download takes as long as it takes
        },
    )
    serve.run(DEPLOYMENT.bind(str(home.root)), name=APP_NAME, route_prefix="/")


class _FitForServe:
    """Makes good what a Serve replica does with an app's answer.

    Its proxy adds the request id's header by itself: with the app's own it would be there twice. And its
    ``send`` never waits: a download would be queued in memory as fast as the disk gives it. So a mark goes
    after every piece, and at most ``PIECES_QUEUED_MAX`` pieces are sent whose marks were not taken yet.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        room = asyncio.Semaphore(PIECES_QUEUED_MAX)
        loop = asyncio.get_running_loop()

        async def send_paced(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[REQUEST_ID_HEADER]
            if not message.get("more_body"):
                await send(message)
                return
            await room.acquire()
            await send(message)
            mark = _Mark()
            mark.taken = partial(loop.call_soon_threadsafe, room.release)
            await send({"type": "http.response.body", "body": mark, "more_body": True})

        await self._app(scope, receive, send_paced)


class _Mark(bytes):
    """An empty piece that notices when Serve takes it off the queue, for Serve then pickles it."""

    taken: Callable[[], object]

    def __reduce__(self) -> tuple[type[bytes], tuple[()]]:
        self.taken()
        return bytes, ()
