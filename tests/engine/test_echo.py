"""The echo engine's own promises: what it says, what it can be told to fail at, and how its steps pass."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from raybatch.engine.echo import EchoEngine, EchoSettings
from raybatch.engine.echo_answers import answer
from raybatch.errors import EngineDied, EngineFailed

CHAT = "/v1/chat/completions"


def say(text: str, **fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **fields}).encode()


def told(url: str, request: dict[str, Any]) -> dict[str, Any]:
    said = answer(url, json.dumps(request).encode(), "r", Counter())
    assert said.status == 200, said.body
    body: dict[str, Any] = json.loads(said.body)
    return body


def test_the_last_user_message_is_echoed_and_words_are_counted() -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "the last one"}]},
        {"role": "assistant", "content": "not this"},
    ]
    body = told(CHAT, {"model": "m", "messages": messages})

    assert body["choices"][0]["message"]["content"] == "echo: the last one"
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}
    assert body["model"] == "m"


async def test_the_tally_grows_by_one_byte_for_each_row_that_begins(tmp_path: Path) -> None:
    tally = tmp_path / "begun"
    for _ in range(2):  # a second engine goes on where the first one ended
        engine = EchoEngine(EchoSettings(tally=str(tally)))
        await engine.start()
        for request_id in ("a", "b", "c"):
            await engine.generate(CHAT, say("hello"), request_id)
        await engine.generate(CHAT, say("[[status=400]]"), "refused, never begun")
        await engine.stop()

    assert tally.stat().st_size == 6


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_an_answer_is_cut_at_the_token_limit(limit: str) -> None:
    body = told("/v1/completions", {"model": "m", "prompt": "one two three", limit: 2})

    assert body["choices"][0]["text"] == "echo: one"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 2


def test_embeddings_depend_on_the_text_alone() -> None:
    body = told("/v1/embeddings", {"model": "m", "input": ["a", "b", "a"]})

    first, second, third = (entry["embedding"] for entry in body["data"])
    assert first == third != second


def test_a_row_fails_as_often_as_it_asks_to() -> None:
    failures: Counter[str] = Counter()
    body = say("again [[status=503 times=2]]")

    statuses = [answer(CHAT, body, "r", failures).status for _ in range(4)]

    assert statuses == [503, 503, 200, 200]
    assert answer(CHAT, say("never [[status=400]]"), "r", failures).status == 400


@pytest.mark.parametrize("body", [b"\xff", b"[" * 100_000, say("x", max_tokens=0), say("x", max_tokens="5")])
def test_an_unfit_body_is_a_400(body: bytes) -> None:
    assert answer(CHAT, body, "r", Counter()).status == 400


async def test_rows_beyond_the_concurrency_wait_their_turn() -> None:
    engine = EchoEngine(EchoSettings(alpha_ms=1, concurrency=2))
    await engine.start()
    try:
        bodies = [say(" ".join("x" * 9)) for _ in range(6)]
        await asyncio.gather(*(engine.generate(CHAT, body, f"r{i}") for i, body in enumerate(bodies)))
        assert engine.progress().steps == 30  # ten words a row, two rows at a time
        assert engine.progress().completion_tokens == 60
    finally:
        await engine.stop()


async def test_a_crashing_row_takes_its_neighbours_down_but_not_those_before_it() -> None:
    engine = EchoEngine(EchoSettings(alpha_ms=1))
    await engine.start()
    try:
        assert (await engine.generate(CHAT, say("fine"), "before")).status == 200
        outcomes = await asyncio.gather(
            engine.generate(CHAT, say("neighbour " * 500), "a"),
            engine.generate(CHAT, say("poison [[crash]]"), "b"),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [EngineDied, EngineDied]
    finally:
        await engine.stop()


async def test_a_hanging_row_stops_all_steps_while_the_child_lives() -> None:
    engine = EchoEngine()
    await engine.start()
    try:
        hung = asyncio.create_task(engine.generate(CHAT, say("[[hang]]"), "a"))
        # A bad request is still answered, as a server that hangs in its engine would.
        assert (await engine.generate(CHAT, b"{}", "b")).status == 400
        steps = engine.progress().steps
        behind = asyncio.create_task(engine.generate(CHAT, say("behind it"), "c"))
        assert (await engine.generate(CHAT, b"{}", "d")).status == 400
        assert engine.progress().steps == steps
        assert engine.child_pids()
        assert not hung.done()
        assert not behind.done()
    finally:
        await engine.stop()
    assert isinstance((await asyncio.gather(hung, behind, return_exceptions=True))[1], EngineDied)


async def test_a_child_that_cannot_start_is_said_to_have_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(EngineFailed, match="ended at once"):
        await EchoEngine().start()


def test_the_child_ends_when_its_parent_is_killed() -> None:
    script = (
        "import asyncio, sys\n"
        "from raybatch.engine.echo import EchoEngine\n"
        "async def main():\n"
        "    engine = EchoEngine()\n"
        "    await engine.start()\n"
        "    print(engine.child_pids()[0], flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)

    gone, _ = psutil.wait_procs([child], timeout=60)
    assert gone
