"""A raybatch of its own with real vLLM and the packaged model, and the stock client that speaks to it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI

from raybatch.actors import cluster
from raybatch.actors.connection import Connection
from raybatch.actors.ports import free_ports
from raybatch.cli.up import wait_for_model
from raybatch.config import PACKAGED_MODEL, Home, make_settings
from raybatch.engine.packaged_model import prepare_packaged_model

CACHE = Path(__file__).resolve().parents[2] / ".cache"
BATCH_MAX_S = 540.0
ENDPOINT = "/v1/chat/completions"
#: of a test that uses one
MARKS = (
    pytest.mark.vllm,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
)


@dataclass(frozen=True)
class RealCluster:
    home: Home
    connection: Connection
    client: OpenAI

    def create(self, lines: list[dict[str, Any]]) -> str:
        """A batch of these lines; its id."""
        upload = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = self.client.files.create(file=("lines.jsonl", upload), purpose="batch")
        return self.client.batches.create(
            input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h"
        ).id

    def engine_cores(self) -> list[int]:
        """The pids of vLLM's EngineCore processes: by descent, as not every machine lets them set a title."""
        found = cluster.processes(self.home)
        actors = {process.pid for process in found if process.role == "engine"}
        cores = [
            process.pid
            for process in found
            if process.role == "engine-child"
            and psutil.Process(process.pid).ppid() in actors
            and "resource_tracker" not in process.command
        ]
        assert len(cores) == len(actors) > 0, "\n".join(f"{p.pid} {p.role} {p.command}" for p in found)
        return sorted(cores)

    def until(self, batch_id: str, reached: Callable[[Any], bool], limit_s: float = BATCH_MAX_S) -> Any:
        """The first look at the batch that shows it so."""
        deadline_mono = time.monotonic() + limit_s
        while True:
            batch = self.client.batches.retrieve(batch_id)
            if reached(batch):
                return batch
            assert batch.status not in ("failed", "cancelled"), batch
            assert time.monotonic() < deadline_mono, f"not reached in time: {batch}"
            time.sleep(0.2)

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        """Of an output or error file."""
        assert file_id is not None
        return [json.loads(line) for line in self.client.files.content(file_id).read().splitlines()]


@contextmanager
def real_cluster(*assignments: str) -> Iterator[RealCluster]:
    """Its model is ready; nothing of it is left afterwards. ``assignments``: ``section.key=value``."""
    with tempfile.TemporaryDirectory(prefix="rb-") as root:
        home = Home(Path(root))
        model = replace(PACKAGED_MODEL, source=str(prepare_packaged_model(CACHE / "models")))
        port = f"api.port={free_ports(1)[0]}"
        try:
            settings = make_settings("test", (port, *assignments), models=(model,))
            facts = cluster.up(home, settings, say=print)
            with (
                closing(Connection(home, facts.api_url, None)) as connection,
                OpenAI(
                    base_url=f"{connection.url}/v1",
                    api_key="none",
                    max_retries=8,
                    _strict_response_validation=True,
                ) as client,
            ):
                wait_for_model(connection, print)
                yield RealCluster(home, connection, client)
        finally:
            cluster.down(home, now=True, say=print)
        assert cluster.processes(home) == []
