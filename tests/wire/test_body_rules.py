"""The table of request bodies: what it refuses, what it passes, and whether it knows vLLM's fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from raybatch.wire.body_rules import BODY_RULES, rules_for, vllm_version
from raybatch.wire.grammar_check import DEATHS_MAX, GrammarChecker
from raybatch.wire.request_line import BadLine, CheckedLine, LineChecker
from tests.hostile_bodies import SEEN_AT_INTAKE, SEEN_BY_THE_ENGINE

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]+$"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}


@pytest.fixture(scope="module")
def checker() -> Iterator[LineChecker]:
    """One for all, so that the compilers are started once."""
    checker = LineChecker(CHAT, {"m": "m"}, frozenset({"pictures.example"}))
    yield checker
    checker.close()


def line(endpoint: str = CHAT, **body: Any) -> bytes:
    given = {"model": "m", "messages": MESSAGES} if endpoint == CHAT else {"model": "m"}
    return json.dumps(
        {"custom_id": "a", "method": "POST", "url": endpoint, "body": {**given, **body}}
    ).encode()


def faults(checker: LineChecker, line: bytes) -> list[tuple[str, str | None]]:
    checked = checker.check(line, 1)
    if isinstance(checked, CheckedLine):
        return []
    assert not checked.structural, "a rule of the table costs only its own line"
    return [(error.code, error.param) for error in checked.errors]


@pytest.mark.parametrize("name", SEEN_AT_INTAKE)
def test_a_hostile_body_costs_its_own_line(checker: LineChecker, name: str) -> None:
    assert next(code for code, _ in faults(checker, line(**SEEN_AT_INTAKE[name]))) in (
        "invalid_value",
        "unknown_parameter",
    )


@pytest.mark.parametrize("name", SEEN_BY_THE_ENGINE)
def test_what_only_the_engine_can_know_is_left_to_it(checker: LineChecker, name: str) -> None:
    assert faults(checker, line(**SEEN_BY_THE_ENGINE[name])) == []


@pytest.mark.parametrize(
    "body",
    [
        {"n": 16, "best_of": 16, "top_logprobs": 20, "logprobs": True},
        {"logit_bias": {"49151": -100, "0": 0.5}, "stop_token_ids": [2], "allowed_token_ids": [1, 2]},
        {"bad_words": ["one", "two words"]},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}, {"type": "x"}]},
        {"structured_outputs": {"regex": "[a-z]{1,20}"}},
        {"structured_outputs": {"choice": ["yes", 'n"o']}},
        {"structured_outputs": {"grammar": 'root ::= "a" | "b"'}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, IMAGE]}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "https://pictures.example/1"}}],
                }
            ]
        },
        {"messages": [{"role": "user", "content": "<|im_start|><image><|vision_pad|>http://x.example"}]},
        {"echo": True, "logprobs": False},
        {"priority": 0, "prompt_logprobs": None, "temperature": -1, "seed": 10**30},
    ],
)
def test_what_clients_ask_for_passes(checker: LineChecker, body: dict[str, Any]) -> None:
    assert faults(checker, line(**body)) == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 17}, "body.n"),
        ({"n": "4"}, "body.n"),
        ({"n": 2.5}, "body.n"),
        ({"n": 10**40}, "body.n"),
        ({"max_tokens": 2**31}, "body.max_tokens"),
        ({"prompt_logprobs": 0}, "body.prompt_logprobs"),
        ({"echo": True, "logprobs": True}, "body.echo"),
        ({"priority": 1}, "body.priority"),
        ({"messages": [{"role": "user", "content": [IMAGE] * 65}]}, "body.messages"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "body.structured_outputs"),
        ({"response_format": "json"}, "body.response_format"),
        ({"tools": {}}, "body.tools"),
        ({"structured_outputs": {"regex": "a\x00"}}, "body.structured_outputs"),
    ],
)
def test_each_bound_is_named(checker: LineChecker, body: dict[str, Any], param: str) -> None:
    assert [found for _, found in faults(checker, line(**body))] == [param]


@pytest.mark.parametrize(
    "url",
    [
        "https://pictures.example@10.0.0.1/1",
        "https://10.0.0.1\\@pictures.example/1",
        "https://pictures.example.evil.example/1",
        "ftp://pictures.example/1",
        "//pictures.example/1",
        " https://pictures.example/1",
    ],
)
def test_only_the_allowed_domain_itself_is_asked_for_media(checker: LineChecker, url: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    assert faults(checker, line(messages=[{"role": "user", "content": content}])) == [
        ("invalid_value", "body.messages")
    ]


def test_several_unknown_fields_are_each_named(checker: LineChecker) -> None:
    found = faults(checker, line(guided_json={}, x=1))
    assert sorted(found) == [("unknown_parameter", "body.guided_json"), ("unknown_parameter", "body.x")]


def test_a_line_of_bad_structure_fails_a_strict_batch_whatever_else_it_has(checker: LineChecker) -> None:
    checked = checker.check(line(stream=True, n=99), 1)
    assert isinstance(checked, BadLine)
    assert checked.structural
    assert {error.code for error in checked.errors} == {"streaming_unsupported", "invalid_value"}


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        ("/v1/completions", {"prompt": "x", "logprobs": 21}, ["body.logprobs"]),
        ("/v1/completions", {"prompt": "x", "prompt_embeds": "AA"}, ["body.prompt_embeds"]),
        ("/v1/responses", {"input": "x", "background": True}, ["body.background"]),
        ("/v1/responses", {"input": [{"role": "user", "content": "x"}], "max_output_tokens": 5}, []),
        (
            "/v1/responses",
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_image", "image_url": "http://x.example"}]}
                ]
            },
            ["body.input"],
        ),
        ("/v1/embeddings", {"input": ["x", "y"], "encoding_format": "base64", "dimensions": 8}, []),
        ("/v1/embeddings", {"input": [[1, 2], [3]]}, []),
        ("/v1/embeddings", {"input": "x", "encoding_format": "bytes"}, ["body.encoding_format"]),
        ("/v1/score", {"text_1": "x", "text_2": ["y"]}, []),
        ("/v1/rerank", {"query": "x", "documents": ["y"], "top_n": 1}, []),
        (
            "/v1/rerank",
            {"query": {"content": [{"type": "image_url", "image_url": "http://x"}]}},
            ["body.query"],
        ),
        ("/v1/classify", {"input": "x"}, []),
        ("/v1/pooling", {"input": "x", "task": "token_embed", "data": {}}, ["body.data"]),
    ],
)
def test_each_endpoint_has_its_own_fields(endpoint: str, body: dict[str, Any], expected: list[str]) -> None:
    checker = LineChecker(endpoint, {"m": "m"})
    assert [param for _, param in faults(checker, line(endpoint, **body))] == expected
    checker.close()


def test_an_older_vllm_must_not_see_what_it_cannot_bear() -> None:
    never = {field.name for field in rules_for(CHAT, (0, 29)).fields if field.never}
    assert never - {field.name for field in rules_for(CHAT, (0, 30)).fields if field.never} == {"bad_words"}


# -- the compiling process -----------------------------------------------------------------------------------

SLOW_CHILD = """
import json, os, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    with open(sys.argv[0] + ".asked", "a") as asked:
        asked.write("x")
    if "kill" in line:
        os._exit(1)
    print(json.dumps({"problem": "bad" if "bad" in line else None}), flush=True)
"""


@pytest.fixture
def child(tmp_path: Path) -> Path:
    path = tmp_path / "child.py"
    path.write_text(SLOW_CHILD)
    return path


def asked(child: Path) -> int:
    return len(child.with_name("child.py.asked").read_text())


def test_identical_grammars_are_compiled_once(child: Path) -> None:
    checker = GrammarChecker(child)
    assert [checker.problem("json", "good") for _ in range(3)] == [None] * 3
    assert [checker.problem("json", "bad") for _ in range(3)] == ["it does not compile: bad"] * 3
    assert asked(child) == 2
    checker.close()


def test_a_grammar_that_kills_the_compiler_is_refused_and_the_next_one_compiled(child: Path) -> None:
    checker = GrammarChecker(child)
    assert checker.problem("json", "kill") == "it takes too much time or memory to compile"
    assert checker.problem("json", "good") is None
    checker.close()


def test_many_killers_do_not_start_many_compilers(child: Path) -> None:
    checker = GrammarChecker(child)
    for number in range(3 * DEATHS_MAX):
        assert checker.problem("json", f"kill {number}") is not None
    assert asked(child) == DEATHS_MAX
    checker.close()


def test_without_a_compiler_the_engine_judges(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text("print('{\"ready\": false}')")
    checker = GrammarChecker(child)
    assert checker.problem("json", "anything") is None
    checker.close()


# -- vLLM's own fields ---------------------------------------------------------------------------------------


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_table_names_every_field_of_the_installed_vllm_and_openai() -> None:
    """A new version's field is a decision: pass it on, bound it or refuse it."""
    from openai.types import completion_create_params, embedding_create_params
    from openai.types.chat import completion_create_params as chat_create_params
    from openai.types.responses import response_create_params
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.pooling.classify.protocol import ClassificationRequest
    from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest
    from vllm.entrypoints.pooling.pooling.protocol import PoolingRequest
    from vllm.entrypoints.pooling.scoring.protocol import RerankRequest, ScoreRequest

    accepted: dict[str, list[Any]] = {
        CHAT: [ChatCompletionRequest, chat_create_params.CompletionCreateParamsNonStreaming],
        "/v1/completions": [
            CompletionRequest,
            completion_create_params.CompletionCreateParamsNonStreaming,
        ],
        "/v1/responses": [ResponsesRequest, response_create_params.ResponseCreateParamsNonStreaming],
        "/v1/embeddings": [EmbeddingRequest, embedding_create_params.EmbeddingCreateParams],
        "/v1/score": [ScoreRequest],
        "/v1/rerank": [RerankRequest],
        "/v1/classify": [ClassificationRequest],
        "/v1/pooling": [PoolingRequest],
    }

    assert vllm_version() > (0, 23)
    for endpoint, models in accepted.items():
        known = {field.name for field in BODY_RULES[endpoint].fields}
        missing = set().union(*map(fields_of, models)) - known
        assert not missing, f"{endpoint}: {sorted(missing)} are in no row of raybatch/wire/body_rules.py"


def fields_of(model: Any) -> set[str]:
    """Of a pydantic model, of a typed dictionary, or of a union of those."""
    if hasattr(model, "model_fields"):
        return set(model.model_fields)
    if hasattr(model, "__required_keys__"):
        return set(model.__required_keys__ | model.__optional_keys__)
    return set().union(*map(fields_of, get_args(model)))
