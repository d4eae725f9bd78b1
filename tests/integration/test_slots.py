"""One engine for two models, in turns; and the same figures wherever one looks for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import psutil
import pytest

from jobs.echo_cluster import EchoCluster, make_cluster, until
from jobs.trial import ENDPOINT, request
from raybatch.actors.cluster_facts import processes
from raybatch.config import ModelSettings

pytestmark = pytest.mark.cluster

SEEN_MAX_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[EchoCluster]:
    models = (ModelSettings("first", aliases=("one",)), ModelSettings("second"))
    made = make_cluster("engine.slots=1", "ray.dashboard=true", rows_per_s=500, models=models)
    try:
        made.up()
        yield made
    finally:
        made.close()


def start(cluster: EchoCluster, model: str, rows: int) -> str:
    lines = []
    for number in range(rows):
        one = request(f"r{number}", f"hello {number}")
        one["body"]["model"] = model
        lines.append(json.dumps(one) + "\n")
    files = {"file": ("requests.jsonl", "".join(lines).encode())}
    file_id = cluster.post("/v1/files", files=files, data={"purpose": "batch"})["id"]
    asked = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    batch_id: str = cluster.post("/v1/batches", json=asked)["id"]
    return batch_id


def test_a_slot_serves_every_model_that_has_work_and_says_which(cluster: EchoCluster) -> None:
    states = {model["id"]: model["raybatch"]["state"] for model in cluster.get("/v1/models")["data"]}
    assert states["first"] == "ready"
    assert states["second"] == "waiting"

    batches = [start(cluster, model, 300) for model in ("one", "second", "first")]
    until(
        lambda: all(cluster.get(f"/v1/batches/{batch_id}")["status"] == "completed" for batch_id in batches),
        SEEN_MAX_S,
        "not every model's batch was served",
    )
    counts = [cluster.get(f"/v1/batches/{batch_id}")["request_counts"]["completed"] for batch_id in batches]
    assert counts == [300, 300, 300]
    log = cluster.admin("log")
    loads = [entry["message"].split()[0] for entry in log if entry["kind"] == "ready"]
    assert loads == ["first", "second"]  # the first one's work was done before anything was swapped


def test_health_status_and_metrics_tell_the_same(cluster: EchoCluster) -> None:
    (engine,) = cluster.get("/health")["engines"]
    (admin,) = cluster.admin("overview")["overview"]["engines"]
    assert (engine["id"], engine["phase"], engine["models"]) == (
        admin["engine_id"],
        admin["phase"],
        list(admin["models"]),
    )
    shown: dict[str, float] = {}

    def told() -> bool:
        shown.update(metrics(cluster))
        return "ray_raybatch_engine_up" in shown and "ray_raybatch_batches completed" in shown

    until(told, SEEN_MAX_S, "Ray's registry has no figures of raybatch")
    assert shown["ray_raybatch_engine_up"] == 1.0
    until(lambda: metrics(cluster)["ray_raybatch_batches completed"] == 3.0, SEEN_MAX_S, "counts differ")
    assert metrics(cluster)["ray_raybatch_closed"] == 0.0


def metrics(cluster: EchoCluster) -> dict[str, float]:
    """By name, and by status where there is one; from the port a Prometheus would ask."""
    commands = (" ".join(psutil.Process(facts.pid).cmdline()) for facts in processes(cluster.home))
    port = next(filter(None, (re.search(r"--metrics-export-port=(\d+)", command) for command in commands)))
    text = httpx.get(f"http://127.0.0.1:{port[1]}/metrics", timeout=30.0).text
    found = {}
    for line in text.splitlines():
        match = re.match(r"(ray_raybatch_\w+)\{(.*)\} (\S+)$", line)
        if match:
            status = re.search(r'status="(\w+)"', match[2])
            found[match[1] + (f" {status[1]}" if status else "")] = float(match[3])
    return found
