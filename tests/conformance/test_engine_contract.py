"""What every engine promises, asked of each of them. The last two tests take the engine down for good."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from raybatch.engine.contract import Engine, EngineReply
from raybatch.engine.echo import EchoEngine, EchoSettings
from raybatch.engine.packaged_model import MODEL_ALIAS, MODEL_ID, prepare_packaged_model
from raybatch.engine.vllm_engine import VllmEngine, VllmSettings
from raybatch.errors import EngineDied

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
CACHE = Path(__file__).resolve().parents[2] / ".cache"
LONG = " ".join(["word"] * 800)
# vLLM and torch warn about themselves; that is not this suite's to judge.
VLLM = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.filterwarnings("default")]
QUESTION = "What is the capital of France?"


@dataclass(frozen=True)
class Subject:
    engine: Engine
    rows: int  #: for the test with many requests
    knows: str  #: in the answer to QUESTION


async def _echo() -> Subject:
    engine = EchoEngine(EchoSettings(alpha_ms=1.0, concurrency=256))
    await engine.start()
    return Subject(engine, rows=2000, knows="echo: What is the capital of France?")


async def _vllm() -> Subject:
    folder = await asyncio.to_thread(prepare_packaged_model, CACHE / "models")
    settings = VllmSettings(
        model=str(folder),
        served_names=(MODEL_ID, MODEL_ALIAS),
        cache_root=str(CACHE / "vllm"),
        max_model_len=1024,
        enforce_eager=True,
        kv_cache_memory_bytes=1 << 30,
    )
    engine = VllmEngine(settings)
    await engine.start()
    return Subject(engine, rows=64, knows="Paris")


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[
        pytest.param(_echo, id="echo"),
        pytest.param(_vllm, id="vllm", marks=VLLM),
    ],
)
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    make: Callable[[], Awaitable[Subject]] = request.param
    subject = await make()
    yield subject
    await subject.engine.stop()


async def test_a_chat_request_gets_an_openai_chat_completion(subject: Subject) -> None:
    reply = await subject.engine.generate(CHAT, _chat(QUESTION, max_tokens=30), "req-1")

    body = json.loads(reply.body)
    assert reply.status == 200
    assert body["object"] == "chat.completion"
    assert body["id"] == "chatcmpl-req-1"
    assert subject.knows in body["choices"][0]["message"]["content"]
    assert body["choices"][0]["finish_reason"] == "stop"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_many_requests_at_once_each_get_their_own_answer(subject: Subject) -> None:
    bodies = {f"row-{i}": _chat(f"Say {i}.", max_tokens=2 + i % 7) for i in range(subject.rows)}

    replies = await asyncio.gather(
        *(subject.engine.generate(CHAT, body, name) for name, body in bodies.items())
    )

    answers = [json.loads(reply.body) for reply in replies]
    assert [answer["id"] for answer in answers] == [f"chatcmpl-{name}" for name in bodies]
    assert all(answer["usage"]["completion_tokens"] <= 2 + i % 7 for i, answer in enumerate(answers))


@pytest.mark.parametrize(
    ("url", "body", "status"),
    [
        pytest.param(CHAT, b'{"model": ', 400, id="not JSON"),
        pytest.param(CHAT, b"[1, 2]", 400, id="not an object"),
        pytest.param(CHAT, b'{"model": "smollm2"}', 400, id="no messages"),
        pytest.param(CHAT, b'{"model": "smollm2", "messages": [5]}', 400, id="a message that is a number"),
        pytest.param("/v1/load_lora_adapter", b"{}", 404, id="a URL that is not for requests"),
    ],
)
async def test_a_bad_request_is_refused_in_openais_words_and_harms_no_neighbour(
    subject: Subject, url: str, body: bytes, status: int
) -> None:
    bad, good = await asyncio.gather(
        subject.engine.generate(url, body, "bad"),
        subject.engine.generate(CHAT, _chat(QUESTION, max_tokens=3), "good"),
    )

    error = json.loads(bad.body)["error"]
    assert bad.status == status
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["code"] is None or isinstance(error["code"], str)
    assert error["message"]
    assert good.status == 200


async def test_cancelling_a_call_ends_that_request_and_no_other(subject: Subject) -> None:
    engine = subject.engine
    given_up = _ask_for_long(engine, "given-up")
    kept = asyncio.create_task(engine.generate(CHAT, _chat(LONG, max_tokens=40, ignore_eos=True), "kept"))
    await _until(lambda: engine.progress().running == 2)

    given_up.cancel()

    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert (await kept).status == 200
    await _until(lambda: engine.progress().running == 0)


async def test_progress_moves_while_rows_run(subject: Subject) -> None:
    engine = subject.engine
    before = engine.progress()

    await engine.generate(CHAT, _chat(LONG, max_tokens=20, ignore_eos=True), "moves")

    after = engine.progress()
    assert after.steps >= before.steps + 20
    assert after.completion_tokens == before.completion_tokens + 20
    assert after.prompt_tokens > before.prompt_tokens


async def test_when_a_child_is_killed_every_call_in_flight_raises(subject: Subject) -> None:
    engine = subject.engine
    calls = [_ask_for_long(engine, f"lost-{i}") for i in range(4)]
    await _until(lambda: engine.progress().running == 4)

    os.kill(engine.child_pids()[0], signal.SIGKILL)

    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EngineDied] * 4
    with pytest.raises(EngineDied):
        await engine.generate(CHAT, _chat(QUESTION), "too-late")


async def test_stop_leaves_no_child_and_can_be_repeated(subject: Subject) -> None:
    children = [psutil.Process(pid) for pid in subject.engine.child_pids()]
    family = [*children, *(heir for child in children for heir in child.children(recursive=True))]
    await subject.engine.stop()
    await subject.engine.stop()

    assert subject.engine.child_pids() == ()
    assert not [process for process in family if process.is_running()]


def _chat(text: str, **fields: object) -> bytes:
    message = {"role": "user", "content": text}
    return json.dumps({"model": MODEL_ALIAS, "messages": [message], "temperature": 0, **fields}).encode()


def _ask_for_long(engine: Engine, request_id: str) -> asyncio.Task[EngineReply]:
    body = _chat(LONG, max_tokens=200, ignore_eos=True)
    return asyncio.create_task(engine.generate(CHAT, body, request_id))


async def _until(condition: Callable[[], bool]) -> None:
    """Progress is read, not announced; the suite's own time limit is the only one."""
    while not condition():
        await asyncio.sleep(0.005)
