"""Whatever is wrong with a request, the answer is OpenAI's envelope with a request id."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.serve_app.requests import CHAT

Call = tuple[str, str, dict[str, Any]]

CREATE = {"input_file_id": "file-none", "endpoint": CHAT, "completion_window": "24h"}


def envelope_of(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body: dict[str, Any] = answer.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    assert error["type"] == ("server_error" if answer.status_code == 500 else "invalid_request_error")
    return error


@pytest.mark.parametrize(
    ("call", "status", "param"),
    [
        (("GET", "/nowhere", {}), 404, None),
        (("GET", "/v1/batches/", {}), 404, None),
        (("GET", "/v1/files/%2e%2e%2f%2e%2e%2fetc/content", {}), 404, None),
        (("GET", "/v1/files/%ff%00%0a", {}), 404, "id"),
        (("GET", "/v1/files/" + "a" * 10_000, {}), 404, "id"),
        (("DELETE", "/v1/files/%F0%9F%92%A9", {}), 404, "id"),
        (("GET", "/v1/models/a/b/%2F", {}), 404, "model"),
        (("GET", "/v1/batches/%zz", {}), 404, None),
        (("GET", "/v1/batches?limit=%ff", {}), 400, "limit"),
        (("GET", "/v1/batches?limit=1&limit=" + "9" * 5_000, {}), 400, "limit"),
        (("GET", "/v1/batches?after=%00", {}), 400, "after"),
        (("GET", "/v1/files?order=up", {}), 400, "order"),
        (("GET", "/v1/batches/batch_none/failed?after=99999999999999999999", {}), 400, "after"),
        (("GET", "/v1/batches/batch_none/results?format=xml", {}), 400, "format"),
        (("GET", "/v1/batches?x=" + "a" * 40_000, {}), 414, None),
        (("POST", "/v1/batches", {"content": b"{"}), 400, None),
        (("POST", "/v1/batches", {"content": b""}), 400, None),
        (("POST", "/v1/batches", {"content": b"[" * 100_000}), 400, None),
        (("POST", "/v1/batches", {"content": b'{"a":"\xff"}'}), 400, None),
        (("POST", "/v1/batches", {"content": b'{"a":"\\ud800"}'}), 400, None),
        (("POST", "/v1/batches", {"content": b" " * (1 << 20) + b"{}"}), 413, None),
        (("POST", "/v1/batches", {"json": CREATE | {"priority": 10**400}}), 400, "priority"),
        (
            ("POST", "/v1/batches", {"json": CREATE | {"metadata": {"\ufeff\x00": [1]}}}),
            400,
            "metadata.\ufeff\x00",
        ),
        (("POST", "/v1/batches", {"content": b'{"priority":' + b"9" * 5_000 + b"}"}), 400, None),
        (("POST", "/v1/batches/x/retry", {"json": {"custom_ids": {}}}), 400, "custom_ids"),
    ],
)
async def test_a_wrong_request_is_refused_in_one_envelope(
    http: httpx2.AsyncClient, call: Call, status: int, param: str | None
) -> None:
    method, url, more = call
    answer = await http.request(method, url, **more)
    error = envelope_of(answer)
    assert (answer.status_code, error["param"]) == (status, param)
    assert len(error["message"]) < 11_000


@pytest.mark.parametrize(
    ("method", "url", "allowed"),
    [
        ("PATCH", "/v1/files/file-1", "DELETE, GET, HEAD"),
        ("OPTIONS", "/v1/batches", "GET, HEAD, POST"),
        ("GET", "/v1/batches/batch_1/cancel", "POST"),
        ("HEAD", "/v1/batches/batch_1/retry", "POST"),
        ("BREW", "/health", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    http: httpx2.AsyncClient, method: str, url: str, allowed: str
) -> None:
    answer = await http.request(method, url)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    if method == "HEAD":
        assert answer.content == b""
    else:
        assert method in envelope_of(answer)["message"]


async def test_head_answers_as_get_does_and_sends_no_body(http: httpx2.AsyncClient) -> None:
    for url in ("/health", "/health/live", "/v1/models", "/v1/models/small", "/v1/files", "/v1/batches", "/"):
        got, head = await http.get(url), await http.head(url)
        assert (head.status_code, head.content) == (got.status_code, b""), url
        assert head.headers["content-length"] == got.headers["content-length"]
    assert (await http.head("/v1/files/file-none/content")).status_code == 404


async def test_a_fault_of_ours_says_nothing_but_its_request_id(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("the inside")

    monkeypatch.setattr("serve_app.batches.list_object", broken)
    answer = await http.get("/v1/batches", headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "mine"
    assert "mine" in envelope_of(answer)["message"]
    assert "the inside" not in answer.text


@pytest.mark.parametrize("given", ["a" * 200, "a b", "é", ""])
async def test_a_request_id_that_is_none_is_not_echoed(http: httpx2.AsyncClient, given: str) -> None:
    answer = await http.get("/health/live", headers={"x-request-id": given.encode()})
    assert answer.headers["x-request-id"].startswith("req_")
