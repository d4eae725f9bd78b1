"""The HTTP door as a Ray Serve application."""

from __future__ import annotations

from pathlib import Path

from ray import serve
from starlette.types import ASGIApp

from raybatch.actors.head import ON_HEAD
from raybatch.config import Home, Settings
from serve_app.body_window import ReplicaWindow
from serve_app.serve_fit import FitForServe

APP_NAME = "raybatch"
ONGOING_REQUESTS_MAX = 200


@serve.ingress()
class HttpDoor:
    """One replica: it reads the settings of its home and builds the app when it starts."""

    def __init__(self, home_path: str) -> None:
        self._home = Home(Path(home_path))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        from raybatch.actors.scheduler_handle import RayScheduler
        from serve_app.app import build_app

        app = build_app(self._home, self._home.load(), RayScheduler(self._home))
        return FitForServe(ReplicaWindow(app))


DEPLOYMENT = serve.deployment(
    name="door",
    num_replicas=1,
    max_ongoing_requests=ONGOING_REQUESTS_MAX,
    ray_actor_options={"num_cpus": 0, "resources": ON_HEAD},
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
