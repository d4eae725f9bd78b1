"""A batch through all that is real: HTTP, Ray, vLLM, Parquet, SQL; and vLLM's engine process killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from raybatch.cli.demo_questions import SCORE_SQL, questions
from raybatch.cli.sql import ask
from raybatch.config import PACKAGED_MODEL
from tests.acceptance.real_cluster import MARKS, RealCluster, real_cluster

ROWS = 300
REJECTED = 3  #: bodies vLLM answers with 400

pytestmark = [*MARKS]


@pytest.fixture(scope="module")
def real() -> Iterator[RealCluster]:
    with real_cluster() as made:
        yield made


def test_a_batch_survives_the_death_of_vllms_engine_process(real: RealCluster) -> None:
    lines = [json.loads(line) for line in questions(ROWS, PACKAGED_MODEL.id)]
    for line in lines[:: ROWS // REJECTED][:REJECTED]:
        line["body"]["temperature"] = -1
    batch_id = real.create(lines)

    real.until(batch_id, lambda batch: batch.request_counts.completed >= ROWS // 10)
    for pid in real.engine_cores():
        os.kill(pid, signal.SIGKILL)
    batch = real.until(batch_id, lambda batch: batch.status == "completed")

    assert batch.request_counts.total == ROWS
    assert batch.request_counts.completed == ROWS - REJECTED
    output = real.lines(batch.output_file_id)
    errors = real.lines(batch.error_file_id)
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

    scored = ask(real.connection, SCORE_SQL, batch_id)
    kind, rows, score, permuted = next(row for row in scored.rows if row[0] == "all")
    assert (kind, rows) == ("all", ROWS)
    assert score >= 0.5 and score >= 3 * permuted, scored.rows  # noqa: PT018
