"""Bodies that have killed engines, among clean ones, on real vLLM: they cost their own rows, nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from raybatch.cli.demo_questions import questions
from raybatch.config import PACKAGED_MODEL
from tests.acceptance.real_cluster import MARKS, RealCluster, real_cluster
from tests.hostile_bodies import SEEN_AT_INTAKE, SEEN_BY_THE_ENGINE

CLEAN = 500
MODEL = PACKAGED_MODEL.id
SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
QUESTION = [{"role": "user", "content": "Is water wet?"}]
TOOL = {"type": "function", "function": {"name": "answer", "parameters": SCHEMA}}

pytestmark = [*MARKS, pytest.mark.long]


@pytest.fixture(scope="module")
def real() -> Iterator[RealCluster]:
    tools = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    with real_cluster(f"vllm.extra={json.dumps(tools)}") as made:
        yield made


def test_hostile_bodies_cost_their_own_rows_and_no_engine(real: RealCluster) -> None:
    lines = [json.loads(line) for line in questions(CLEAN, MODEL)]
    clean = [line["custom_id"] for line in lines]
    hostile = {**SEEN_AT_INTAKE, **SEEN_BY_THE_ENGINE}
    first = lines[0]
    for number, (name, change) in enumerate(hostile.items()):
        body = {**first["body"], "max_tokens": 8, **change}
        lines.insert(number * CLEAN // len(hostile), {**first, "custom_id": name, "body": body})
    before = real.engine_cores()

    output, errors = run(real, lines)

    assert [row["custom_id"] for row in output] == clean
    assert sorted(row["custom_id"] for row in errors) == sorted(hostile)
    by_id = {row["custom_id"]: row for row in errors}
    assert all(by_id[name]["error"]["code"] for name in SEEN_AT_INTAKE)
    statuses = {name: by_id[name]["response"]["status_code"] for name in SEEN_BY_THE_ENGINE}
    assert set(statuses.values()) == {400}, statuses
    assert real.engine_cores() == before


@pytest.mark.parametrize(
    ("endpoint", "bodies"),
    [
        (
            "/v1/chat/completions",
            {
                "plain": {"messages": QUESTION, "seed": 7, "temperature": 0.7},
                "seeded again": {"messages": QUESTION, "seed": 7, "temperature": 0.7},
                "logprobs": {"messages": QUESTION, "logprobs": True, "top_logprobs": 3},
                "schema": {
                    "messages": QUESTION,
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "answer", "schema": SCHEMA},
                    },
                },
                "tool": {
                    "messages": QUESTION,
                    "tools": [TOOL],
                    "tool_choice": {"type": "function", "function": {"name": "answer"}},
                },
            },
        ),
        (
            "/v1/completions",
            {"plain": {"prompt": "Water is", "logprobs": 2}, "two": {"prompt": "Ice is", "n": 2}},
        ),
        ("/v1/responses", {"plain": {"input": "Is water wet?"}}),
        ("/v1/embeddings", {"plain": {"input": "water"}}),
    ],
)
def test_each_endpoint_gives_the_engines_own_answers(
    real: RealCluster, endpoint: str, bodies: dict[str, dict[str, Any]]
) -> None:
    limit = {"/v1/responses": "max_output_tokens", "/v1/embeddings": "dimensions"}.get(endpoint, "max_tokens")
    lines = [
        {"custom_id": name, "method": "POST", "url": endpoint, "body": {"model": MODEL, limit: 96, **body}}
        for name, body in bodies.items()
    ]

    output, errors = run(real, lines)

    if endpoint == "/v1/embeddings":  # this model cannot
        assert [row["response"]["status_code"] for row in errors] == [404]
        assert "does not serve /v1/embeddings" in errors[0]["response"]["body"]["error"]["message"]
        return
    assert errors == []
    answers = {row["custom_id"]: row["response"]["body"] for row in output}
    assert list(answers) == list(bodies)
    for body in answers.values():
        used = body["usage"]
        assert used.get("completion_tokens", 0) + used.get("output_tokens", 0) > 0
    if endpoint == "/v1/chat/completions":
        told = {name: body["choices"][0]["message"] for name, body in answers.items()}
        assert told["plain"]["content"] == told["seeded again"]["content"]
        assert set(json.loads(told["schema"]["content"])) == {"yes"}
        called = told["tool"].get("tool_calls") or []
        assert [call["function"]["name"] for call in called] == ["answer"], answers["tool"]
        assert len(answers["logprobs"]["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3
    if endpoint == "/v1/completions":
        assert len(answers["two"]["choices"]) == 2


def run(real: RealCluster, lines: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """The lines of the output and of the error file."""
    upload = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = real.client.files.create(file=("lines.jsonl", upload), purpose="batch")
    batch_id = real.client.batches.create(
        input_file_id=file.id, endpoint=lines[0]["url"], completion_window="24h"
    ).id
    batch = real.until(batch_id, lambda batch: batch.status == "completed")
    files = (batch.output_file_id, batch.error_file_id)
    output, errors = ([] if file_id is None else real.lines(file_id) for file_id in files)
    return output, errors
