"""Which of vLLM's answers are results; and the call that carries them, against a small ASGI application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from raybatch.engine.asgi_call import AsgiCall
from raybatch.engine.vllm_replies import reply_from_vllm

DONE = b'{"choices":[{"message":{"content":"{\\"finish_reason\\":\\"abort\\"}"},"finish_reason":"stop"}]}'


def test_a_result_passes_byte_for_byte_whatever_its_text_looks_like() -> None:
    reply = reply_from_vllm(200, DONE)

    assert (reply.status, reply.body) == (200, DONE)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"choices":[{"text":"half an ans","finish_reason":"abort"}]}'),
        (200, b"null"),
        (200, b""),
        (400, b'{"error":{"message":"Client disconnected","type":"BadRequestError","code":400}}'),
    ],
)
def test_what_only_looks_like_a_result_may_be_asked_again(status: int, body: bytes) -> None:
    assert reply_from_vllm(status, body).status == 503


@pytest.mark.parametrize(
    ("status", "message", "kind", "code"),
    [
        (400, "temperature must be in [0, 2]", "invalid_request_error", None),
        (400, "This model's maximum context length is 8", "invalid_request_error", "context_length_exceeded"),
        (404, "The model `x` does not exist.", "invalid_request_error", "model_not_found"),
        (500, "oops", "server_error", None),
        (503, "later", "service_unavailable_error", None),
    ],
)
def test_errors_speak_openais_words(status: int, message: str, kind: str, code: str | None) -> None:
    body = {"error": {"message": message, "type": "BadRequestError", "param": "p", "code": status}}

    reply = reply_from_vllm(status, json.dumps(body).encode())

    assert reply.status == status
    expected = {"message": message, "type": kind, "param": "p", "code": code}
    assert json.loads(reply.body)["error"] == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"detail": [{"loc": "x"}]}', b'{"error": "flat"}'])
def test_an_error_of_any_shape_becomes_an_envelope(body: bytes) -> None:
    error = json.loads(reply_from_vllm(500, body).body)["error"]

    assert error["type"] == "server_error"
    assert error["message"]


def test_a_long_message_is_cut() -> None:
    reply = reply_from_vllm(400, json.dumps({"error": {"message": "x" * 100_000}}).encode())

    assert len(reply.body) < 2000


async def test_the_application_sees_one_json_request_and_its_client_leave() -> None:
    app = FastAPI()
    arrived, left = asyncio.Event(), asyncio.Event()

    @app.post("/v1/echo")
    async def echo(request: Request) -> JSONResponse:
        return JSONResponse({"got": await request.json(), "id": request.headers["x-request-id"]})

    @app.post("/v1/slow")
    async def slow(request: Request) -> None:
        await request.body()
        arrived.set()
        assert (await request.receive())["type"] == "http.disconnect"
        left.set()

    call = AsgiCall("/v1/echo", b'{"a": 1}', "req-7")
    await call.run(app)
    assert (call.status, json.loads(call.answer)) == (200, {"got": {"a": 1}, "id": "req-7"})

    call = AsgiCall("/v1/slow", b"{}", "req-8")
    running = asyncio.create_task(call.run(app))
    await arrived.wait()
    call.disconnect()
    await running
    assert left.is_set()


async def test_a_streamed_answer_is_left_at_its_first_word() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"data: x\n\n"
            await asyncio.sleep(0)

    app = FastAPI()

    @app.post("/v1/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(endless(), media_type="text/event-stream")

    call = AsgiCall("/v1/stream", b"{}", "req-9")
    await call.run(app)

    assert call.streamed
    assert reply_from_vllm(call.status, bytes(call.answer), streamed=call.streamed).status == 400
