"""A batch through all that is real: HTTP, Ray, vLLM, Parquet, SQL; and vLLM's engine process killed."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from raybatch.actors import cluster
from raybatch.actors.connection import Connection
from raybatch.actors.ports import free_ports
from raybatch.cli.demo_questions import SCORE_SQL, questions
from raybatch.cli.sql import ask
from raybatch.cli.up import wait_for_model
from raybatch.config import PACKAGED_MODEL, ApiSettings, Home, make_settings
from raybatch.engine.packaged_model import prepare_packaged_model

CACHE = Path(__file__).resolve().parents[2] / ".cache"
ROWS = 300
REJECTED = 3  #: bodies vLLM answers with 400
BATCH_MAX_S = 540.0

pytestmark = [pytest.mark.vllm, pytest.mark.cluster, pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="rb-") as root:
        home = Home(Path(root))
        model = replace(PACKAGED_MODEL, source=str(prepare_packaged_model(CACHE / "models")))
        api = ApiSettings(port=free_ports(1)[0])
        try:
            cluster.up(home, make_settings("test", models=(model,), api=api), say=print)
            yield home
        finally:
            cluster.down(home, now=True, say=print)
        assert cluster.processes(home) == []


@pytest.fixture(scope="module")
def connection(home: Home) -> Connection:
    facts = cluster.running(home)
    assert facts is not None
    connection = Connection(home, facts.api_url, None)
    wait_for_model(connection, print)
    return connection


@pytest.fixture(scope="module")
def client(connection: Connection) -> OpenAI:
    return OpenAI(
        base_url=f"{connection.url}/v1", api_key="none", max_retries=8, _strict_response_validation=True
    )


def test_a_batch_survives_the_death_of_vllms_engine_process(
    home: Home, connection: Connection, client: OpenAI
) -> None:
    lines = [json.loads(line) for line in questions(ROWS, PACKAGED_MODEL.id)]
    for line in lines[:: ROWS // REJECTED][:REJECTED]:
        line["body"]["temperature"] = -1
    upload = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=("questions.jsonl", upload), purpose="batch")
    batch_id = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    ).id

    _until(client, batch_id, lambda batch: batch.request_counts.completed >= ROWS // 10)
    killed = [p.pid for p in cluster.processes(home) if "EngineCore" in p.command]
    assert killed, cluster.processes(home)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    batch = _until(client, batch_id, lambda batch: batch.status == "completed")

    assert batch.request_counts.total == ROWS
    assert batch.request_counts.completed == ROWS - REJECTED
    output = _lines(client, batch.output_file_id)
    errors = _lines(client, batch.error_file_id)
    rejected = [line["custom_id"] for line in lines if line["body"]["temperature"] == -1]
    assert [row["custom_id"] for row in errors] == rejected
    assert all(row["response"]["status_code"] == 400 for row in errors)
    assert all("temperature" in row["response"]["body"]["error"]["message"] for row in errors)
    answered = [line["custom_id"] for line in lines if line["custom_id"] not in rejected]
    assert [row["custom_id"] for row in output] == answered
    assert all(row["response"]["body"]["choices"][0]["message"]["content"] for row in output)
    usage = [row["response"]["body"]["usage"]["completion_tokens"] for row in output]
    assert batch.usage is not None
    assert batch.usage.output_tokens == sum(usage)

    scored = ask(connection, SCORE_SQL, batch_id)
    kind, rows, score, permuted = next(row for row in scored.rows if row[0] == "all")
    assert (kind, rows) == ("all", ROWS)
    assert score >= 0.5 and score >= 3 * permuted, scored.rows  # noqa: PT018


def _until(client: OpenAI, batch_id: str, reached: Any) -> Any:
    deadline_mono = time.monotonic() + BATCH_MAX_S
    while True:
        batch = client.batches.retrieve(batch_id)
        if reached(batch):
            return batch
        assert batch.status not in ("failed", "cancelled"), batch
        assert time.monotonic() < deadline_mono, f"not reached in time: {batch}"
        time.sleep(0.2)


def _lines(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).read().splitlines()]
