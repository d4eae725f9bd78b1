"""A raybatch of its own, in a home that goes with it: what measures and breaks one needs.

It speaks to the API over HTTP as any client does, and asks the home only for process ids and the manifest.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from jobs.checker import Stored
from raybatch.actors import cluster
from raybatch.actors.cluster_facts import kill_at_once, processes
from raybatch.actors.connection import Connection
from raybatch.actors.engine_names import engine_names
from raybatch.actors.reads import BatchRows
from raybatch.config import Home, Settings
from raybatch.core.model import Batch
from raybatch.errors import OperatorError
from raybatch.storage.manifest import BatchFiles, Manifest
from raybatch.storage.results import open_sql, query

Json = dict[str, Any]
LOOK_S: Final = 0.1
ENGINE_READY_MAX_S: Final = 120.0


class OwnCluster:
    def __init__(self, home: Home, settings: Settings, ready_max_s: float = ENGINE_READY_MAX_S) -> None:
        """``ready_max_s``: how long the engines may take to load."""
        self.home = home
        self.settings = settings
        self.url = f"http://{settings.api.host}:{settings.api.port}"
        self._ready_max_s = ready_max_s
        self._ray_temp_dir: Path | None = None  #: outside the home, for socket paths must be short
        self._connection = Connection(home, self.url, None)
        self._http = httpx.Client(base_url=self.url, timeout=30.0)

    def up(self, engines: int | None = None) -> None:
        """Returns once as many engines (all, when not given) are ready.

        Raises OperatorError with the reason of an engine that could not load.
        """
        self._ray_temp_dir = Path(cluster.up(self.home, self.settings, say=lambda _: None).ray_temp_dir)
        expected = len(engine_names(self.settings)) if engines is None else engines
        until(lambda: self.ready_engines() >= expected, self._ready_max_s, "the engines are not ready")

    def down(self, now: bool = False) -> None:
        cluster.down(self.home, now, say=lambda _: None)

    def close(self) -> None:
        """Stop it and remove all that it wrote. Raises OperatorError when a process outlives that."""
        self._http.close()
        self._connection.close()
        self.kill_everything()  # nobody comes back to it
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

    def delete(self, path: str) -> Any:
        """As ``get``."""
        answer = self._http.delete(path)
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
        """0 while nobody answers. Raises OperatorError with the reason of an engine that failed to load."""
        try:
            engines = self.get("/health")["engines"]
        except (httpx.HTTPError, KeyError):
            return 0
        for engine in engines:
            if engine["phase"] == "failed":
                raise OperatorError(f"engine {engine['id']} could not start: {engine['error']}")
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

    def batch(self, batch_id: str) -> Batch:
        """As the ledger has it: instants to the microsecond, where the API shows whole seconds."""
        return self._rows(batch_id).batch

    def sql(self, batch_id: str, text: str) -> list[Json]:
        """What a statement over the views of one batch's Parquet files answers."""
        with open_sql(self.home.root, self._manifest(batch_id)) as con:
            found: list[Json] = query(con, text).to_pylist()
        return found

    def stored(self, batch_id: str) -> list[Stored]:
        """The rows of a batch as SQL over the manifest's Parquet files tells them."""
        found = self.sql(batch_id, "SELECT index, custom_id, status_code, line FROM results")
        return [Stored(**row) for row in found]

    def admin(self, path: str) -> Any:
        """What the operator's door answers, such as "overview" or "log". Raises RaybatchError."""
        return self._connection.admin("GET", f"/admin/{path}")

    def pause(self, on: bool) -> None:
        """Start no new row of any batch, or go on. Raises RaybatchError."""
        self._connection.admin("POST", "/admin/pause", {"on": on})

    def sql_s(self, batch_id: str, text: str) -> float:
        """How long a statement over the views of one batch takes, once they are open."""
        with open_sql(self.home.root, self._manifest(batch_id)) as con:
            started_mono = time.monotonic()
            query(con, text)
            return time.monotonic() - started_mono

    def part_paths(self, batch_id: str) -> list[Path]:
        """The Parquet files that hold a batch's rows."""
        return [self.home.root / part.path for part in self._rows(batch_id).parts]

    def _manifest(self, batch_id: str) -> Manifest:
        rows = self._rows(batch_id)
        return Manifest((BatchFiles(rows.batch, None, rows.visible(), rows.parts if rows.redrives else ()),))

    def _rows(self, batch_id: str) -> BatchRows:
        known = msgspec.convert(self.admin("manifest"), tuple[BatchRows, ...])
        return next(rows for rows in known if rows.batch.batch_id == batch_id)


def until(true: Callable[[], bool], limit_s: float, otherwise: str, look_s: float = LOOK_S) -> None:
    """Look until it is so. Raises TimeoutError saying what was not so."""
    deadline_mono = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline_mono:
            raise TimeoutError(f"after {limit_s:.0f} s {otherwise}")
        time.sleep(look_s)
