"""Schemas, grammars and patterns that an answer must follow: bounded in size, and known to compile.

Compiling is where engines hang, grow or crash, so it happens here first, in a process of its own
(``grammar_check``). What compiles may still be refused by an engine, with an error for that row alone.
"""

from __future__ import annotations

import json
from typing import Any, Final

from raybatch.wire.server_terms import ServerTerms

SCHEMA_BYTES_MAX: Final = 64 << 10
SCHEMA_DEPTH_MAX: Final = 32
SCHEMA_VALUES_MAX: Final = 5_000  #: properties, and values of enums, of one schema
CHOICES_MAX: Final = 1_000
TEXT_CHARACTERS_MAX: Final = 32 << 10  #: of a grammar
PATTERN_CHARACTERS_MAX: Final = 4 << 10
TOOLS_MAX: Final = 128
TEMPLATE_KWARGS: Final = frozenset(
    {
        "enable_thinking",
        "thinking",
        "thinking_budget",
        "thinking_mode",
        "reasoning_effort",
        "preserve_thinking",
        "clear_thinking",
        "add_vision_id",
        "date_string",
    }
)
_TEMPLATE_TEXT_MAX: Final = 200

_CONSTRAINTS: Final = ("json", "regex", "choice", "grammar", "structural_tag", "json_object")


def response_format_problem(value: Any, terms: ServerTerms) -> str | None:
    """Of chat completions and completions: ``{"type": …}``."""
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    if kind == "json_schema":
        held = value.get("json_schema")
        schema = held.get("schema", held.get("json_schema")) if isinstance(held, dict) else None
        return "'json_schema' holds no schema" if schema is None else _schema_problem(schema, terms)
    if kind == "structural_tag":
        return _tag_problem(value, terms)
    return None if kind in ("text", "json_object") else "'type' must be text, json_object or json_schema"


def text_format_problem(value: Any, terms: ServerTerms) -> str | None:
    """Of responses: ``{"format": {"type": …}}``."""
    held = value.get("format") if isinstance(value, dict) else None
    if not isinstance(held, dict) or held.get("type") != "json_schema":
        return None
    schema = held.get("schema")
    return "'format' holds no schema" if schema is None else _schema_problem(schema, terms)


def tools_problem(value: Any, terms: ServerTerms) -> str | None:
    """``function.parameters`` in chat completions, ``parameters`` in responses."""
    if not isinstance(value, list):
        return None
    if len(value) > TOOLS_MAX:
        return f"{len(value)} tools; a request may have {TOOLS_MAX}"
    for number, tool in enumerate(value):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        schema = function.get("parameters") if isinstance(function, dict) else None
        problem = None if schema is None else _schema_problem(schema, terms)
        if problem is not None:
            return f"tool {number}: {problem}"
    return None


def structured_outputs_problem(value: Any, terms: ServerTerms) -> str | None:
    """vLLM's own ``structured_outputs``: exactly one constraint."""
    if not isinstance(value, dict):
        return None
    given = [name for name in _CONSTRAINTS if value.get(name) is not None]
    if len(given) != 1:
        return f"expected one of {', '.join(_CONSTRAINTS)}, but got {len(given)} of them"
    name, held = given[0], value[given[0]]
    if name == "json_object":
        return None if held is True else "'json_object' must be true"
    if name == "json":
        return _schema_problem(held, terms)
    if name == "choice":
        return _choices_problem(held, terms)
    if name == "structural_tag":
        return _tag_problem(held, terms)
    most = PATTERN_CHARACTERS_MAX if name == "regex" else TEXT_CHARACTERS_MAX
    if not isinstance(held, str) or not held.strip() or len(held) > most or "\x00" in held:
        return f"'{name}' must be a text of at most {most} characters"
    return terms.compile(name, held)


def template_kwargs_problem(value: Any, terms: ServerTerms) -> str | None:
    """They become variables of the model's template, some of which would steer the engine's own code."""
    if not isinstance(value, dict):
        return None
    for name, held in value.items():
        if name not in TEMPLATE_KWARGS:
            return f"unknown name '{name[:80]}': expected one of {', '.join(sorted(TEMPLATE_KWARGS))}"
        if isinstance(held, (dict, list)) or (isinstance(held, str) and len(held) > _TEMPLATE_TEXT_MAX):
            return (
                f"'{name}' must be a boolean, a number or a text of at most {_TEMPLATE_TEXT_MAX} characters"
            )
    return None


def _choices_problem(choices: Any, terms: ServerTerms) -> str | None:
    fits = isinstance(choices, list) and 0 < len(choices) <= CHOICES_MAX
    if not fits or not all(isinstance(choice, str) and choice for choice in choices):
        return f"'choice' must be an array of 1 to {CHOICES_MAX} texts"
    if sum(map(len, choices)) > TEXT_CHARACTERS_MAX:
        return f"'choice' may have {TEXT_CHARACTERS_MAX} characters in all"
    return terms.compile("json", json.dumps({"enum": choices}))


def _tag_problem(tag: Any, terms: ServerTerms) -> str | None:
    tree, problem = _tree(tag)
    return problem or _bounds_problem(tree) or terms.compile("structural_tag", json.dumps(tree))


def _schema_problem(schema: Any, terms: ServerTerms) -> str | None:
    tree, problem = _tree(schema)
    return problem or _bounds_problem(tree) or terms.compile("json", json.dumps(tree))


def _tree(held: Any) -> tuple[Any, str | None]:
    """A schema may be given as the text of one."""
    if isinstance(held, str):
        if len(held) > SCHEMA_BYTES_MAX:
            return None, f"a schema may have {SCHEMA_BYTES_MAX} bytes"
        try:
            held = json.loads(held)
        except (ValueError, RecursionError):
            return None, "the schema is not JSON"
    if not isinstance(held, (dict, bool)):
        return None, "a schema must be an object"
    return held, None


def _bounds_problem(tree: Any) -> str | None:
    """Looks at most at as many values as a schema may have."""
    values = 0
    level = [tree]
    for _ in range(SCHEMA_DEPTH_MAX):
        inner: list[Any] = []
        for at in level:
            held = at.values() if isinstance(at, dict) else at if isinstance(at, list) else ()
            values += len(held)
            if values > SCHEMA_VALUES_MAX:
                return f"a schema may hold {SCHEMA_VALUES_MAX} keys and values"
            inner.extend(held)
        if not inner:
            break
        level = inner
    else:
        return f"a schema may be nested {SCHEMA_DEPTH_MAX} levels deep"
    if len(json.dumps(tree)) > SCHEMA_BYTES_MAX:
        return f"a schema may have {SCHEMA_BYTES_MAX} bytes"
    return None
