"""The HTTP door as a Ray Serve application.

Serve starts it, watches it and starts it again. Requests do not pass Serve's proxy: that is a process and two
copies more for each, and it takes an upload as fast as the client sends it, however slowly the app reads. The
replica serves HTTP itself, on the socket that the supervisor holds.
"""

from __future__ import annotations

from pathlib import Path

from ray import serve

from raybatch.actors.api_socket import API_SOCKET_NAME, take_api_socket
from raybatch.actors.cluster_facts import read_facts
from raybatch.actors.head import ON_HEAD
from raybatch.config import Home
from serve_app.http_server import HttpServer
from serve_app.turns import Turns

APP_NAME = "raybatch"


class HttpDoor:
    """One replica: it reads the settings of its home and serves the app from its start on."""

    def __init__(self, home_path: str) -> None:
        from raybatch.actors.scheduler_handle import RayScheduler
        from serve_app.app import build_app

        home = Home(Path(home_path))
        facts = read_facts(home)
        assert facts is not None, "the supervisor writes cluster.json first"
        app = build_app(home, home.load(), RayScheduler(home))
        self._server = HttpServer(Turns(app), take_api_socket(Path(facts.ray_temp_dir) / API_SOCKET_NAME))

    async def check_health(self) -> None:
        """Serve asks before it calls the replica ready, and every few seconds."""
        await self._server.check()


DEPLOYMENT = serve.deployment(
    name="door",
    num_replicas=1,
    ray_actor_options={"num_cpus": 0, "resources": ON_HEAD},
    graceful_shutdown_timeout_s=5.0,
    graceful_shutdown_wait_loop_s=0.5,
)(HttpDoor)


def deploy(home: Home) -> None:
    """Serve ``home``. Ray is connected; returns once requests are answered."""
    serve.start(proxy_location="Disabled")
    serve.run(DEPLOYMENT.bind(str(home.root)), name=APP_NAME, route_prefix=None)
