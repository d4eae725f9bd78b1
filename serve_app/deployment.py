"""The HTTP door as a Ray Serve application."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from sys import getrefcount

from ray import serve
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raybatch.config import Home, Settings
from serve_app.answers import REQUEST_ID_HEADER

APP_NAME = "raybatch"
ONGOING_REQUESTS_MAX = 200
PIECES_QUEUED_MAX = 4  #: of one answer, each of about 1 MiB
LOOK_MIN_S, LOOK_MAX_S = 0.001, 0.25
OUR_REFERENCES = 2  #: the queue's own, and the argument of getrefcount


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
    ``send`` never waits: a download would be queued in memory as fast as the disk gives it. So an answer goes
    on only while Serve holds no more than ``PIECES_QUEUED_MAX`` of its pieces, which reference counts tell.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        queued: deque[bytes] = deque()

        async def send_paced(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[REQUEST_ID_HEADER]
            await send(message)
            if message.get("more_body"):
                queued.append(message["body"])
            if len(queued) > PIECES_QUEUED_MAX:
                await _released(queued, send)
                queued.popleft()

        await self._app(scope, receive, send_paced)


async def _released(queued: Sequence[bytes], send: Send) -> None:
    """Returns once the oldest piece is ours alone. Serve holds what it took last until there is more to take,
    so it is given nothings to take."""
    look_s = LOOK_MIN_S
    while getrefcount(queued[0]) > OUR_REFERENCES:
        await asyncio.sleep(look_s)
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        look_s = min(2 * look_s, LOOK_MAX_S)
