"""A raybatch of its own on the echo engine, in a home that goes with it: what measures and breaks one needs.

It speaks to the API over HTTP as any client does, and asks the home only for process ids and the manifest.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from jobs.checker import Stored
from raybatch.actors import cluster
from raybatch.actors.cluster_facts import kill_at_once, processes
from raybatch.actors.ports import free_ports
from raybatch.actors.reads import BatchRows
from raybatch.config import Home, ModelSettings, Settings, make_settings
from raybatch.errors import OperatorError
from raybatch.storage.manifest import BatchFiles, Manifest
from raybatch.storage.results import open_sql, query

Json = dict[str, Any]
MODEL: Final = "echo"
TOKENS_PER_ROW: Final = 4  #: words of an answer such as "echo: hello number 7"
STEP_MS: Final = 20.0
LOOK_S: Final = 0.1
ENGINE_READY_MAX_S: Final = 120.0


class EchoCluster:
    def __init__(self, home: Home, settings: Settings) -> None:
        self.home = home
        self.settings = settings
        self.url = f"http://{settings.api.host}:{settings.api.port}"
        self._ray_temp_dir: Path | None = None  #: outside the home, for socket paths must be short
        self._http = httpx.Client(base_url=self.url, timeout=30.0)

    def up(self, engines: int | None = None) -> None:
        """Returns once as many engines (all, when not given) are ready."""
        self._ray_temp_dir = Path(cluster.up(self.home, self.settings, say=lambda _: None).ray_temp_dir)
        expected = self.settings.engine.replicas if engines is None else engines
        until(lambda: self.ready_engines() >= expected, ENGINE_READY_MAX_S, "the engines are not ready")

    def down(self, now: bool = False) -> None:
        cluster.down(self.home, now, say=lambda _: None)

    def close(self) -> None:
        """Stop it and remove all that it wrote. Raises OperatorError when a process outlives that."""
        self._http.close()
        self.down(now=True)
        if left := processes(self.home):
            raise OperatorError(f"still there after down: {left}; logs: {self.home.logs}")
        for path in (self.home.root, self._ray_temp_dir):
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answered. Raises httpx.HTTPError, when the API is away too."""
        answer = self._http.get(path, params=query)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, **content: Any) -> Any:
        """As ``get``; ``content`` as httpx takes it."""
        answer = self._http.post(path, **content)
        answer.raise_for_status()
        return answer.json()

    def content(self, file_id: str | None) -> bytes:
        """A file's bytes; none for the file that is not there."""
        if file_id is None:
            return b""
        answer = self._http.get(f"/v1/files/{file_id}/content")
        answer.raise_for_status()
        return answer.content

    def ready_engines(self) -> int:
        """0 while nobody answers."""
        try:
            engines = self.get("/health")["engines"]
        except (httpx.HTTPError, KeyError):
            return 0
        return sum(engine["phase"] == "ready" for engine in engines)

    def pids(self, role: str) -> list[int]:
        """Of the live processes of this home with a role, oldest first."""
        return [process.pid for process in processes(self.home) if process.role == role]

    def signal(self, role: str, number: signal.Signals) -> int:
        """Send it to the oldest process of a role; answers its pid."""
        pid = self.pids(role)[0]
        os.kill(pid, number)
        return pid

    def kill_everything(self) -> None:
        """And leave it so, as a power cut would."""
        kill_at_once(self.home)

    def stored(self, batch_id: str) -> list[Stored]:
        """The rows of a batch as SQL over the manifest's Parquet files tells them."""
        token = (self.home.run / "admin_token").read_text().strip()
        answer = self._http.get("/admin/manifest", headers={"Authorization": f"Bearer {token}"})
        answer.raise_for_status()
        known = msgspec.json.decode(answer.content, type=tuple[BatchRows, ...])
        mine = tuple(
            BatchFiles(rows.batch, None, rows.parts) for rows in known if rows.batch.batch_id == batch_id
        )
        with open_sql(self.home.root, Manifest(mine)) as con:
            found = query(con, "SELECT index, custom_id, status_code, line FROM results")
        return [Stored(**row) for row in found.to_pylist()]


@contextmanager
def echo_cluster(*assignments: str, rows_per_s: float | None = None) -> Iterator[EchoCluster]:
    """One that is up, until the block ends. ``rows_per_s``: how fast an engine is, else as fast as it can."""
    made = make_cluster(*assignments, rows_per_s=rows_per_s)
    try:
        made.up()
        yield made
    finally:
        made.close()


def make_cluster(*assignments: str, rows_per_s: float | None = None) -> EchoCluster:
    """Not started yet."""
    home = Home(Path(tempfile.mkdtemp(prefix="raybatch-")))
    pace = () if rows_per_s is None else pace_of(rows_per_s)
    port = f"api.port={free_ports(1)[0]}"
    settings = make_settings(
        "test", ("engine.kind=echo", port, *pace, *assignments), models=(ModelSettings(MODEL),)
    )
    return EchoCluster(home, settings)


def pace_of(rows_per_s: float) -> tuple[str, ...]:
    """Settings of an echo engine that answers about so many rows of ``requests`` a second."""
    concurrency = max(1, round(rows_per_s * TOKENS_PER_ROW * STEP_MS / 1000))
    return (f"echo.alpha_ms={STEP_MS}", f"echo.concurrency={concurrency}")


def until(true: Callable[[], bool], limit_s: float, otherwise: str) -> None:
    """Look until it is so. Raises TimeoutError saying what was not so."""
    deadline_mono = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline_mono:
            raise TimeoutError(f"after {limit_s:.0f} s {otherwise}")
        time.sleep(LOOK_S)
