"""Make a running Ray cluster a raybatch: scheduler, engines, HTTP door. Idempotent; a process of its own.

``python -m serve_app.bootstrap HOME``: the supervisor calls it after every start of the head and whenever
something that Ray itself does not bring back has gone.
"""

from __future__ import annotations

import logging
import sys
import time

import ray

from raybatch.actors.cluster_facts import read_facts
from raybatch.actors.engine_actor import ensure_engines
from raybatch.actors.engine_names import engine_names
from raybatch.actors.gateway import NAMESPACE
from raybatch.actors.scheduler_actor import SCHEDULER_NAME, ensure_scheduler
from raybatch.actors.versions import code_version
from raybatch.config import Home
from raybatch.telemetry import log_to_stderr
from serve_app.deployment import deploy

VERSION_MAX_S = 60.0

log = logging.getLogger(__name__)


def main() -> None:
    log_to_stderr()
    home = Home.find(sys.argv[1])
    settings = home.load()
    facts = read_facts(home)
    assert facts is not None, "the supervisor writes cluster.json first"
    ray.init(address=facts.ray_address, namespace=NAMESPACE, log_to_driver=False, logging_level="warning")
    for name in (SCHEDULER_NAME, *(engine.engine_id for engine in engine_names(settings))):
        _retire_old(name)
    scheduler = ensure_scheduler(home)
    ensure_engines(home)
    deploy(home)
    ray.get(scheduler.warm.remote())


def _retire_old(name: str) -> None:
    """Actors outlive an upgrade with their old code: such a one is ended, to be made again."""
    try:
        actor = ray.get_actor(name, namespace=NAMESPACE)
        found = ray.get(actor.version.remote(), timeout=VERSION_MAX_S)
    except (ValueError, ray.exceptions.RayError, TimeoutError):
        return  # not there, or starting: with the code on disk
    if found == code_version():
        return
    log.warning("recycling %s of version %s", name, found)
    ray.kill(actor)
    deadline_mono = time.monotonic() + VERSION_MAX_S
    while time.monotonic() < deadline_mono:
        try:
            ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main()
