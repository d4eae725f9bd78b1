"""Who is let in, and what every answer looks like."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from raybatch.config import ApiSettings, Home, Settings
from raybatch.errors import OperatorError
from serve_app.app import build_app
from tests.serve_app.local_scheduler import LocalScheduler

KEY = "sk-secret"
KEY_SHA256 = sha256(KEY.encode()).hexdigest()

MakeHttp = Callable[..., httpx2.AsyncClient]


@pytest.mark.parametrize("host", ["localhost:8420", "127.0.0.1", "[::1]:8420", "LOCALHOST", "box.lan:1"])
async def test_our_own_names_are_let_in(make_http: MakeHttp, host: str) -> None:
    http = make_http(allowed_hosts=("box.lan",))
    assert (await http.get("/v1/models", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example:8420", "127.0.0.1.evil.example", "10.0.0.1", "", "[fe80::1"],
)
async def test_a_foreign_host_is_refused(http: httpx2.AsyncClient, host: str) -> None:
    answer = await http.get("/v1/models", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "unknown_host")
    assert "api.allowed_hosts" in answer.json()["error"]["message"]


async def test_an_open_address_answers_to_any_address_but_to_known_names_only(make_http: MakeHttp) -> None:
    http = make_http(host="0.0.0.0", key_sha256=KEY_SHA256)
    answers = {}
    for host in ("10.0.0.7:8420", "localhost", "evil.example"):
        headers = {"Host": host, "Authorization": f"Bearer {KEY}"}
        answers[host] = (await http.get("/v1/models", headers=headers)).status_code
    assert answers == {"10.0.0.7:8420": 200, "localhost": 200, "evil.example": 421}


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8420", 200),
        ("https://localhost:8420", 200),
        ("http://localhost:3000", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("http://localhost:8420@evil.example", 403),
    ],
)
async def test_only_our_own_pages_may_ask(http: httpx2.AsyncClient, origin: str, status: int) -> None:
    headers = {"Host": "localhost:8420", "Origin": origin}
    assert (await http.get("/v1/models", headers=headers)).status_code == status


async def test_with_a_key_only_the_liveness_probe_is_open(make_http: MakeHttp) -> None:
    http = make_http(key_sha256=KEY_SHA256)
    for path in ("/v1/models", "/health", "/openapi.json", "/nowhere"):
        assert (await http.get(path)).status_code == 401, path
    assert (await http.get("/health/live")).status_code == 200
    for wrong in (f"Basic {KEY}", "Bearer ", f"Bearer {KEY}x", KEY):
        assert (await http.get("/v1/models", headers={"Authorization": wrong})).status_code == 401
    right = {"Authorization": f"bearer {KEY}"}
    assert (await http.get("/v1/models", headers=right)).status_code == 200


async def test_a_wrong_key_is_told_in_openais_words(make_http: MakeHttp) -> None:
    http = make_http(key_sha256=KEY_SHA256)
    client = AsyncOpenAI(api_key="wrong", base_url="http://127.0.0.1/v1", http_client=http, max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        await client.models.list()
    assert (refused.value.code, refused.value.type) == ("invalid_api_key", "invalid_request_error")
    assert "Incorrect API key provided" in refused.value.message


@pytest.mark.parametrize(
    "api",
    [
        ApiSettings(host="0.0.0.0"),
        ApiSettings(host="::"),
        ApiSettings(host="box.lan"),
        ApiSettings(key_sha256="sk-secret"),
    ],
)
def test_a_door_open_to_strangers_is_not_built(
    home: Home, scheduler: LocalScheduler, api: ApiSettings
) -> None:
    with pytest.raises(OperatorError, match="key_sha256"):
        build_app(home, Settings(api=api), scheduler)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nowhere", 404),
        ("GET", "/v1/files/", 404),
        ("PATCH", "/v1/batches", 405),
        ("GET", "/v1/batches?limit=many", 400),
        ("POST", "/v1/batches", 400),
        ("POST", "/v1/files", 400),
        ("GET", "/v1/files/..%2f..%2fsettings.json/content", 404),
    ],
)
async def test_every_refusal_has_the_one_envelope(
    http: httpx2.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_body_that_is_too_large_is_not_read_to_its_end(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/v1/batches", content=b"[" * 2_000_000)
    assert answer.status_code == 413


async def test_a_fault_of_ours_shows_its_request_id_and_nothing_else(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fault(*_: Any) -> None:
        raise ZeroDivisionError("inner secret")

    monkeypatch.setattr(scheduler, "read", fault)
    answer = await http.get("/v1/files", headers={"X-Request-ID": "my-id.1"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "my-id.1" in answer.json()["error"]["message"]
    assert "secret" not in answer.text
    assert "traceback" not in answer.text.lower()


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ("a" * 129, False), ("a b", False)])
async def test_a_request_id_is_kept_when_it_is_sane(http: httpx2.AsyncClient, given: str, kept: bool) -> None:
    answer = await http.get("/health/live", headers={"X-Request-ID": given})
    found = answer.headers.get_list("x-request-id")
    assert len(found) == 1
    assert (found == [given]) == kept
