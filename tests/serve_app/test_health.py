"""Health, models, admin and the front page."""

from __future__ import annotations

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from raybatch.config import Home
from raybatch.core.events import EnginePhase
from raybatch.core.fitness import Fitness, GpuReading, GpuVerdict
from tests.serve_app.local_scheduler import LocalScheduler, blobs
from tests.serve_app.requests import CHAT, some

TOKEN = {"Authorization": "Bearer the-admin-token"}


async def test_health_tells_loading_from_ok_from_degraded(
    http: httpx2.AsyncClient, scheduler: LocalScheduler
) -> None:
    async def verdict() -> tuple[int, str]:
        answer = await http.get("/health")
        return answer.status_code, answer.json()["status"]

    assert await verdict() == (200, "loading")
    scheduler.report(EnginePhase.LOADING)
    assert await verdict() == (200, "loading")
    scheduler.report(EnginePhase.READY)
    assert await verdict() == (200, "ok")
    (engine,) = (await http.get("/health")).json()["engines"]
    assert (engine["phase"], engine["heartbeat_age_s"]) == ("ready", 0.0)
    scheduler.report(EnginePhase.FAILED)
    assert await verdict() == (200, "degraded")


@pytest.mark.parametrize("trouble", ["down", "draining", "disk_low", "gpu_unfit"])
async def test_health_is_503_exactly_when_a_create_is(
    http: httpx2.AsyncClient, client: AsyncOpenAI, scheduler: LocalScheduler, trouble: str
) -> None:
    params = {"input_file_id": "file-none", "endpoint": CHAT, "completion_window": "24h"}
    for path in ("/health", "/health/ready"):
        assert (await http.get(path)).status_code == 200
    assert (await http.post("/v1/batches", json=params)).status_code == 200

    if trouble == "down":
        scheduler.down = True
    elif trouble == "draining":
        assert (await http.post("/admin/drain", json={"on": True}, headers=TOKEN)).json() == {
            "draining": True
        }
    elif trouble == "gpu_unfit":
        scheduler.report(verdict=GpuVerdict(Fitness.UNFIT, 0.0, ("GPU 0: 91 °C",)))
    else:
        scheduler.look_around(disk_free_bytes=0)
    for path in ("/health", "/health/ready"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        assert answer.json()["reasons"]
    created = await http.post("/v1/batches", json=params)
    assert created.status_code == 503
    assert int(created.headers["retry-after"]) > 0
    assert created.json()["error"]["type"] == "service_unavailable_error"
    assert (await http.get("/health/live")).status_code == 200


async def test_without_a_scheduler_no_upload_is_begun(
    client: AsyncOpenAI, scheduler: LocalScheduler, home: Home
) -> None:
    scheduler.down = True
    with pytest.raises(openai.InternalServerError) as refused:
        await client.files.create(file=("a.jsonl", some(1)), purpose="batch")
    assert refused.value.status_code == 503
    assert refused.value.response.headers["retry-after"] == "3"
    assert blobs(home) == []


async def test_models_go_by_id_and_by_alias(client: AsyncOpenAI) -> None:
    models = [model.id async for model in client.models.list()]
    assert models == ["org/small", "small", "other"]
    for name in models:
        assert (await client.models.retrieve(name)).id == name
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.models.retrieve("org/none")
    assert unknown.value.code == "model_not_found"


async def test_a_model_says_how_it_is_doing_under_each_of_its_names(
    client: AsyncOpenAI, http: httpx2.AsyncClient, scheduler: LocalScheduler
) -> None:
    async def state(name: str) -> dict[str, object]:
        found: dict[str, object] = (await client.models.retrieve(name)).to_dict()["raybatch"]  # type: ignore[assignment]
        return found

    scheduler.report(EnginePhase.FAILED, error="gated: set HF_TOKEN")
    scheduler.measure(rows_per_s=50.0, tokens_per_s=500.0)
    failed = {
        "state": "failed",
        "engines": ["engine-1"],
        "queued_rows": 0,
        "tokens_per_s": 500.0,
        "rows_per_s": 50.0,
        "error": "gated: set HF_TOKEN",
    }
    assert await state("small") == await state("org/small") == failed
    assert (await state("other"))["state"] == "absent"
    assert {"id": "org/small", **failed} in (await http.get("/health")).json()["models"]
    scheduler.down = True
    assert [model.id async for model in client.models.list()] == ["org/small", "small", "other"]


async def test_a_strained_gpu_is_shown_with_its_figures_and_degrades(
    http: httpx2.AsyncClient, scheduler: LocalScheduler
) -> None:
    seen = GpuReading(0, "GPU-1", "a card", 16 << 30, 12 << 30, 1 << 30, 82, 250.04, 320.0, 0.97)
    scheduler.report(gpus=(seen,), verdict=GpuVerdict(Fitness.STRAINED, 0.5, ("82 °C, strained at 80",)))
    shown = (await http.get("/health")).json()
    assert (shown["status"], shown["reasons"]) == (
        "degraded",
        ["engine engine-1 is strained: 82 °C, strained at 80"],
    )
    (engine,) = shown["engines"]
    assert engine["verdict"] == {
        "fitness": "strained",
        "window_share": 0.5,
        "reasons": ["82 °C, strained at 80"],
    }
    (gpu,) = engine["gpus"]
    assert (gpu["memory_others_bytes"], gpu["temperature_c"], gpu["power_w"]) == (1 << 30, 82, 250.0)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
async def test_admin_routes_need_their_token(
    http: httpx2.AsyncClient, headers: dict[str, str], home: Home
) -> None:
    for path in ("/admin/overview", "/admin/manifest"):
        assert (await http.get(path, headers=headers)).status_code == 401
    (home.run / "admin_token").write_text("")  # an empty token opens nothing
    assert (await http.get("/admin/overview", headers={"Authorization": "Bearer "})).status_code == 401
    (home.run / "admin_token").unlink()
    assert (await http.post("/admin/drain", json={"on": True}, headers=TOKEN)).status_code == 401


async def test_the_manifest_names_every_part_of_every_batch(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, home: Home
) -> None:
    created = await http.post("/v1/batches", files={"file": ("in.jsonl", some(3))})
    scheduler.run_chores()
    scheduler.run_rows(3)
    (rows,) = (await http.get("/admin/manifest", headers=TOKEN)).json()
    log = (await http.get("/admin/log", headers=TOKEN)).json()
    assert {entry["batch_id"] for entry in log} == {created.json()["id"], None}
    assert rows["batch"]["batch_id"] == created.json()["id"]
    assert rows["batch"]["tally"]["completed"] == 3
    assert [(home.root / part["path"]).is_file() for part in rows["parts"]] == [True]
    overview = (await http.get("/admin/overview", headers=TOKEN)).json()
    assert overview["health"]["status"] == "ok"
    assert overview["overview"]["state"] == "serving"
    assert overview["settings"]["models"] == ["org/small", "other"]


async def test_the_api_describes_itself(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/openapi.json")).json()["paths"]["/v1/batches"]["post"]["requestBody"]
