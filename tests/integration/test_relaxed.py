"""Relaxed batches: bad lines cost only themselves, and every row runs on the model it names."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from jobs.echo_cluster import EchoCluster, make_cluster, until
from jobs.trial import ENDED, ENDPOINT, TRIAL_MAX_S
from raybatch.config import ModelSettings
from raybatch.verify import checker
from tests.intake.hostile import BAD, HARMLESS, LINE_BYTES_MAX, MODEL, REFUSED, request

pytestmark = pytest.mark.cluster

OTHER = "other"
CLEAN_ROWS = 600
Json = dict[str, Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[EchoCluster]:
    """Strict unless asked; one engine serves both models in turns."""
    models = (ModelSettings(MODEL), ModelSettings(OTHER))
    limit = f"intake.line_bytes_max={LINE_BYTES_MAX}"
    made = make_cluster("engine.slots=1", limit, rows_per_s=1_000, models=models)
    try:
        made.up()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def upload() -> bytes:
    """Every hostile line once, among clean ones for two models in turns; the last line has no end."""
    clean = [request(f"clean {n}", (MODEL, OTHER)[n % 2], user=str(n)) for n in range(CLEAN_ROWS)]
    lines = list(clean[: CLEAN_ROWS // 2])
    for bad, row in zip((*BAD, *REFUSED), clean[CLEAN_ROWS // 2 :], strict=False):
        lines += [row, bad.line, b""]
    lines += clean[CLEAN_ROWS // 2 + len(BAD) + len(REFUSED) :]
    return b"\r\n".join((*lines, *HARMLESS, request("clean 0")))


def ended(cluster: EchoCluster, batch_id: str) -> Json:
    seen: Json = {}

    def so() -> bool:
        seen.update(cluster.get(f"/v1/batches/{batch_id}"))
        return seen["status"] in ENDED

    until(so, TRIAL_MAX_S, f"{batch_id} has not ended")
    return seen


def create(cluster: EchoCluster, upload: bytes, **more: str) -> Json:
    files = {"file": ("requests.jsonl", upload)}
    file_id = cluster.post("/v1/files", files=files, data={"purpose": "batch"})["id"]
    asked = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    created: Json = cluster.post("/v1/batches", json=asked | more)
    return created


def numbered(upload: bytes) -> dict[bytes, int]:
    """Physical line numbers by line; of equal lines the last."""
    return {line.removesuffix(b"\r"): number for number, line in enumerate(upload.split(b"\n"), start=1)}


def test_one_bad_line_of_each_sort_costs_itself_and_two_models_run_side_by_side(
    cluster: EchoCluster, upload: bytes
) -> None:
    created = create(cluster, upload, validation="relaxed")
    assert created["raybatch"]["validation"] == "relaxed"
    batch = ended(cluster, created["id"])
    places = numbered(upload)
    bad = [(places[bad.line.removesuffix(b"\r")], bad.code, bad.custom_id) for bad in (*BAD, *REFUSED)]
    bad.append((places[request("clean 0")], "duplicate_custom_id", "clean 0"))
    completed = CLEAN_ROWS + len(HARMLESS)
    assert (batch["status"], batch["model"]) == ("completed", None)
    counts = {"total": completed + len(bad), "completed": completed, "failed": len(bad)}
    assert batch["request_counts"] == counts

    output, error = (cluster.content(batch[f"{kind}_file_id"]) for kind in ("output", "error"))
    answers: list[Json] = [json.loads(line) for line in output.split(b"\n")[:-1]]
    ids = [f"clean {number}" for number in range(CLEAN_ROWS)]
    ids += [json.loads(line, parse_int=str)["custom_id"] for line in HARMLESS]
    assert [answer["custom_id"] for answer in answers] == ids  # in input order, whatever model ran when
    assert [answer["response"]["body"]["model"] for answer in answers[:4]] == [MODEL, OTHER] * 2
    refused: list[Json] = [json.loads(line) for line in error.split(b"\n")[:-1]]
    assert [(row["error"]["line"], row["error"]["code"], row["custom_id"]) for row in refused] == bad
    assert all(f"(line {row['error']['line']} of" in row["error"]["message"] for row in refused)
    assert checker.check(batch, [upload], [output], [error]).faults == []


def test_the_same_file_fails_a_strict_batch_which_names_its_bad_lines(
    cluster: EchoCluster, upload: bytes
) -> None:
    batch = ended(cluster, create(cluster, upload)["id"])
    assert (batch["status"], batch["raybatch"]["validation"]) == ("failed", "strict")
    errors = batch["errors"]["data"]
    assert (errors[0]["code"], errors[0]["line"]) == ("mismatched_model", 2)
    assert [error["line"] for error in errors] == sorted(error["line"] for error in errors)
    assert (batch["output_file_id"], batch["error_file_id"]) == (None, None)


def test_a_form_may_ask_for_it_too_and_every_format_shows_the_rows(cluster: EchoCluster) -> None:
    lines = [request("a"), b"not json", request("b", OTHER), request("c", "unheard-of")]
    files = {"file": ("requests.jsonl", b"\n".join(lines))}
    created: Json = cluster.post("/v1/batches", files=files, data={"validation": "relaxed"})
    batch = ended(cluster, created["id"])
    assert batch["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
    answer = httpx.get(f"{cluster.url}/v1/batches/{batch['id']}/results?format=parquet")
    rows = pq.read_table(io.BytesIO(answer.content)).to_pydict()
    assert rows["index"] == [0, 1, 2, 3]
    assert rows["custom_id"] == ["a", None, "b", "c"]
    assert rows["error_code"] == [None, "invalid_json_line", None, "model_not_found"]


def test_failed_rows_of_two_models_run_again_where_they_belong(cluster: EchoCluster) -> None:
    told = [{"role": "user", "content": "[[status=400]]"}]
    lines = [
        request(str(number), (MODEL, OTHER)[number % 2], **({"messages": told} if number % 10 < 2 else {}))
        for number in range(100)
    ]
    batch_id = create(cluster, b"\n".join(lines), validation="relaxed")["id"]
    assert ended(cluster, batch_id)["request_counts"] == {"total": 100, "completed": 80, "failed": 20}
    cluster.post(f"/v1/batches/{batch_id}/retry", json={"custom_ids": ["10", "11", "21"]})
    batch = ended(cluster, batch_id)
    assert (batch["raybatch"]["round"], batch["request_counts"]["failed"]) == (2, 20)
    error = cluster.content(batch["error_file_id"]).splitlines()
    failed = [str(number) for number in range(100) if number % 10 < 2]
    assert [json.loads(line)["custom_id"] for line in error] == failed
