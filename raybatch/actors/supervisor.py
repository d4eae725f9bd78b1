"""Keeps one home's cluster alive: starts head, scheduler, engines and HTTP door, and starts again what dies.

``python -m raybatch.actors.supervisor HOME``: the background form of ``raybatch up``. It holds the home's
lock as long as it lives and never imports ray, so that watching costs little.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Final

from raybatch.actors.api_socket import API_SOCKET_NAME, ApiSocket
from raybatch.actors.cluster_facts import (
    CLUSTER_VARIABLE,
    ClusterFacts,
    cluster_id,
    reap,
    try_lock,
    write_facts,
)
from raybatch.actors.head import check_head, on_network
from raybatch.actors.ports import free_ports
from raybatch.config import Home, RaySettings, Settings
from raybatch.errors import OperatorError
from raybatch.telemetry import log_to_stderr

HEAD_START_S: Final = 150.0  #: on a machine that is busy with something else; some ten seconds otherwise
WATCH_S: Final = 2.0
API_SILENT_S: Final = 30.0  #: then the bootstrap runs again
HEAD_RESTART_WAIT_S: Final = 2.0
LOCK_TRIES: Final = 5
#: ports Ray otherwise fixes, so that a second home could not have them
METRICS_VARIABLES: Final = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")
#: 0: Ray takes 127.0.0.1 for the machine's own address, and nothing can join
LOOPBACK_VARIABLE: Final = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
RAY_TEMP_DIR_MAX: Final = 40  #: characters; a session adds some 65 to it
HEAD_END_S: Final = 3.0  #: everything worth keeping is durable already

#: whatever http_proxy says, for that is about other machines
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))

log = logging.getLogger(__name__)


class Supervisor:
    def __init__(self, home: Home, settings: Settings) -> None:
        self._home = home
        self._settings = settings
        self._stop = threading.Event()
        self._head: subprocess.Popen[bytes] | None = None
        self._api: ApiSocket | None = None
        self._environment: dict[str, str] = {}
        self._facts = ClusterFacts(
            home=str(home.root),
            cluster_id=cluster_id(home),
            phase="starting",
            message="starting Ray",
            supervisor_pid=os.getpid(),
            api_url=f"http://{settings.api.host}:{settings.api.port}",
            dashboard_url=None,
            ray_address="",
            ray_temp_dir="",
            started_at=time.time(),
        )

    def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises OperatorError when another supervisor has this home."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        with contextlib.ExitStack() as stack:
            lock = None
            for _ in range(LOCK_TRIES):  # whoever asks whether this home runs holds it for a moment
                lock = lock or stack.enter_context(try_lock(self._home))
                if lock is None:
                    time.sleep(0.1)
            if lock is None:
                raise OperatorError(f"{self._home.root} is running already: see `raybatch status`")
            try:
                self._keep_alive()
            finally:
                self._say("stopping", "stopping")
                self._end()
                if self._api is not None:
                    self._api.close()
                (self._home.run / "cluster.json").unlink(missing_ok=True)

    def _keep_alive(self) -> None:
        while not self._stop.is_set():
            orphans = reap(self._home)
            if orphans:
                log.warning("ended %d processes that an earlier run of this home left behind", orphans)
            try:
                self._start_head()
                self._bootstrap()
                self._watch()
            except OperatorError as error:
                log.error("%s", error.message)
                self._say("failed", error.message)
            if not self._stop.is_set():
                self._end()
                self._stop.wait(HEAD_RESTART_WAIT_S)

    # -- head ----------------------------------------------------------------------------------------------

    def _start_head(self) -> None:
        """A Ray head of our own: token for every port, own ports, own short temp dir, loopback by default."""
        check_head(self._settings.ray)
        ports = free_ports(10)
        ports[0] = self._settings.ray.head_port or ports[0]
        temp_dir = _short_temp_dir(self._home, self._facts.cluster_id)
        self._environment = head_environment(self._home, self._facts.cluster_id) | {
            **{name: str(port) for name, port in zip(METRICS_VARIABLES, ports[8:], strict=True)},
            **socket_variables(self._home, temp_dir),
        }
        if on_network(self._settings.ray):
            self._environment.pop(LOOPBACK_VARIABLE)
        self._open_api(temp_dir)
        self._facts = replace(
            self._facts,
            ray_address=f"{self._settings.ray.node_ip}:{ports[0]}",
            ray_temp_dir=str(temp_dir),
            dashboard_url=f"http://127.0.0.1:{ports[1]}" if self._settings.ray.dashboard else None,
        )
        self._say("starting", "starting Ray")
        with (self._home.logs / "ray.log").open("ab") as output:
            self._head = subprocess.Popen(
                head_command(self._settings.ray, ports, temp_dir),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _open_api(self, temp_dir: Path) -> None:
        """Once, for all replicas there will be. Raises OperatorError when somebody has the address."""
        api = self._settings.api
        try:
            self._api = self._api or ApiSocket(api.host, api.port, temp_dir / API_SOCKET_NAME)
        except OSError as error:
            raise OperatorError(f"cannot listen on {api.host}:{api.port}: {error.strerror}") from error

    def _bootstrap(self) -> None:
        """Scheduler, engines and HTTP door, in a process that ends when they are asked for."""
        self._say("starting", "starting scheduler, engines and API")
        deadline_mono = time.monotonic() + HEAD_START_S
        while not self._stop.is_set():
            self._check_head()
            with (self._home.logs / "bootstrap.log").open("ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "serve_app.bootstrap", str(self._home.root)],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            try:
                while process.poll() is None and not self._stop.is_set():
                    self._check_head()
                    self._stop.wait(0.1)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            if process.returncode == 0 or self._stop.is_set():
                return
            if time.monotonic() > deadline_mono:
                raise OperatorError(
                    f"raybatch did not start on Ray; see {self._home.logs / 'bootstrap.log'} and ray.log"
                )
            self._stop.wait(0.5)

    def _watch(self) -> None:
        """Returns when the head has died. A silent API is bootstrapped again: it may have lost its app."""
        heard_mono = time.monotonic()
        while not self._stop.is_set():
            self._check_head()
            if api_alive(self._facts.api_url):
                heard_mono = time.monotonic()
                if self._facts.phase != "ready":
                    self._say("ready", self._serving())
            elif time.monotonic() - heard_mono > API_SILENT_S:
                self._bootstrap()
                heard_mono = time.monotonic()
            self._stop.wait(WATCH_S if self._facts.phase == "ready" else 0.2)

    def _serving(self) -> str:
        if not on_network(self._settings.ray):
            return "serving"
        token = self._home.run / "ray_token"
        return f"serving; Ray listens on the network: who has {token} may join at {self._facts.ray_address}"

    def _check_head(self) -> None:
        assert self._head is not None
        if self._head.poll() is not None:
            raise OperatorError(
                f"Ray's head ended with {self._head.returncode}; see {self._home.logs / 'ray.log'}"
            )

    def _end(self) -> None:
        if self._head is not None:
            with contextlib.suppress(ProcessLookupError):
                self._head.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._head.wait(timeout=HEAD_END_S)
        reap(self._home)

    def _say(self, phase: str, message: str) -> None:
        self._facts = replace(self._facts, phase=phase, message=message)
        write_facts(self._home, self._facts)
        log.info("%s: %s", phase, message)


def head_command(settings: RaySettings, ports: list[int], temp_dir: Path) -> list[str]:
    launched = settings.autoscaling_config
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *([f"--autoscaling-config={Path(launched).expanduser()}"] if launched else []),
        *(f"--node-ip-address={settings.node_ip}", f"--port={ports[0]}", f"--temp-dir={temp_dir}"),
        *(f"--include-dashboard={str(settings.dashboard).lower()}", "--dashboard-host=127.0.0.1"),
        *(f"--dashboard-port={ports[1]}", f"--ray-client-server-port={ports[2]}"),
        *(f"--node-manager-port={ports[3]}", f"--object-manager-port={ports[4]}"),
        *(f"--dashboard-agent-listen-port={ports[5]}", f"--metrics-export-port={ports[6]}"),
        *(f"--runtime-env-agent-port={ports[7]}", "--min-worker-port=0", "--max-worker-port=0"),
        *(f"--object-store-memory={settings.object_store_bytes}", "--disable-usage-stats"),
    ]


def head_environment(home: Home, cluster: str) -> dict[str, str]:
    """Inherited by every process of a cluster on loopback."""
    token = home.run / "ray_token"
    return os.environ | {
        CLUSTER_VARIABLE: cluster,
        "RAYBATCH_HOME": str(home.root),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",  # for jobs
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ADDRESS": "",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        LOOPBACK_VARIABLE: "0",
        "RAY_raylet_start_wait_time_s": f"{HEAD_START_S:.0f}",  # Ray gives up after half a minute
        "RAY_task_events_report_interval_ms": "0",  # or GCS keeps 100,000 calls that nobody looks at
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # the API's server runs in the replica's own loop
        "SPT_NOENV": "1",  # process titles must not overwrite the environment that says whose they are
        "TMPDIR": str(home.scratch),
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def socket_variables(home: Home, ray_temp_dir: Path) -> dict[str, str]:
    """vLLM's sockets lie in TMPDIR, within the home; where Ray's cannot, theirs could not either."""
    return {} if ray_temp_dir.is_relative_to(home.root) else {"VLLM_RPC_BASE_PATH": str(ray_temp_dir)}


def api_alive(url: str) -> bool:
    try:
        with _DIRECT.open(f"{url}/health/live", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def _short_temp_dir(home: Home, cluster: str) -> Path:
    """In the home, unless its path is long: Ray's socket paths must stay under 107 bytes."""
    path = home.root / "ray"
    if len(str(path)) > RAY_TEMP_DIR_MAX:
        path = Path(tempfile.gettempdir()) / f"rb-{cluster[:8]}"
    path.mkdir(mode=0o700, exist_ok=True)
    for session in path.glob("session_2*"):  # earlier ones: Ray never removes them
        shutil.rmtree(session, ignore_errors=True)
    return path


def main() -> None:
    log_to_stderr()
    home = Home.find(sys.argv[1])
    try:
        Supervisor(home, home.load()).run()
    except OperatorError as error:
        log.error("%s", error.message)
        sys.exit(1)


if __name__ == "__main__":
    main()
