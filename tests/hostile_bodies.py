"""Request bodies that have killed, hung or corrupted inference servers: advisories of 2025-26.

Each is a change to a clean chat body. Those of ``SEEN_AT_INTAKE`` never reach an engine; what the engine
alone can know (its vocabulary, its modalities) it must refuse itself.
"""

from __future__ import annotations

from typing import Any, Final


def _schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


def _tool(parameters: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


def _part(**part: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}]


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


_PIXEL: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJ"
    "RU5ErkJggg=="
)

SEEN_AT_INTAKE: Final[dict[str, dict[str, Any]]] = {
    "a million choices": {"n": 1_000_000},
    "the best of a million": {"best_of": 1_000_000},
    "log probabilities of the whole vocabulary": {"logprobs": True, "top_logprobs": -1},
    "log probabilities of the prompt": {"prompt_logprobs": 20},
    "a bias beyond every vocabulary": {"logit_bias": {"999999999": -100}},
    "an endless bias": {"logit_bias": {"5": 1e308}},
    "a stop token below zero": {"stop_token_ids": [-7], "min_tokens": 4},
    "an allowed token beyond every vocabulary": {"allowed_token_ids": [2**31]},
    "a thousand bad words": {"bad_words": [f"word{number}" for number in range(1000)]},
    "an empty bad word": {"bad_words": [""]},
    "a pattern that is none": {"response_format": _schema({"type": "string", "pattern": "*["})},
    "a type that is none": {"response_format": _schema({"type": "something"})},
    "a tool with a type that is none": {"tools": _tool({"type": "something"}), "tool_choice": "required"},
    "a tool with a pattern that is none": {"tools": _tool({"type": "string", "pattern": "(((("})},
    "a schema of sixty levels": {"response_format": _schema(_nested(60))},
    "ten thousand choices of an enum": {
        "response_format": _schema({"enum": [str(n) for n in range(10_000)]})
    },
    "a structural tag without a format": {"response_format": {"type": "structural_tag", "format": None}},
    "a regex that is none": {"structured_outputs": {"regex": "(a{1,9}){1,9})("}},
    "a grammar that is none": {"structured_outputs": {"grammar": "root ::= (((("}},
    "a grammar of nothing but itself": {"structured_outputs": {"grammar": "root ::= root"}},
    "a schema of nothing but itself": {
        "response_format": _schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})
    },
    "a regex that compiles and then hangs": {
        "structured_outputs": {"regex": "((((a{1,200}){1,200}){1,200}){1,200})"}
    },
    "no constraint at all": {"structured_outputs": {}},
    "a template": {
        "chat_template": "{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}"
    },
    "a template's inner switches": {"chat_template_kwargs": {"tokenize": True, "chat_template": "x"}},
    "a prepared tensor": {"prompt_embeds": "gAJjdG9yY2guX3V0aWxzCg=="},
    "a prepared tensor in a message": {"messages": _part(type="image_embeds", image_embeds="gAJjdG9yY2g=")},
    "a picture of the operator's network": {
        "messages": _part(type="image_url", image_url={"url": "http://169.254.169.254/latest/meta-data/"})
    },
    "a picture of the operator's disk": {
        "messages": _part(type="image_url", image_url={"url": "file:///etc/passwd"})
    },
    "five thousand frames": {
        "messages": _part(type="video_url", video_url={"url": f"data:video/jpeg;base64,{'AA,' * 5000}"})
    },
    "another engine's memory": {"kv_transfer_params": {"do_remote_prefill": True, "remote_block_ids": [1]}},
    "a number too large for a tensor": {"top_k": 2**40},
    "an endless temperature": {"temperature": 1e308},
    "somebody else's cache": {"cache_salt": "tenant-b"},
    "a field nobody knows": {"guided_decoding_backend": "outlines"},
}

#: with the ids just beyond a vocabulary of 49,152
SEEN_BY_THE_ENGINE: Final[dict[str, dict[str, Any]]] = {
    "a bias just beyond the vocabulary": {"logit_bias": {"60000": 5}},
    "a stop token just beyond the vocabulary": {"stop_token_ids": [60000], "min_tokens": 4},
    "an allowed token just beyond the vocabulary": {"allowed_token_ids": [60000]},
    "a picture for a model without eyes": {"messages": _part(type="image_url", image_url={"url": _PIXEL})},
}
