"""The API's own description, ``/openapi.json``: what each operation answers, well or not.

Documentation only: no answer is built or checked with these schemas, a test holds them against what is
answered. A route says ``responses=answers(...)``; what every operation may answer besides is added here.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from raybatch.core.model import BatchStatus
from raybatch.wire.body_rules import ENDPOINTS

Schema = dict[str, Any]
Answers = dict[int | str, dict[str, Any]]

EVERYWHERE = (401, 403, 414, 421, 500)  #: key, foreign page, address, host, a fault of ours


def answers(schema: str, *refusals: int) -> Answers:
    """200 with JSON of a schema in ``SCHEMAS``, and these refusals beside those that are everywhere."""
    return {200: bytes_answer(json=schema), **refused(*refusals)}


def bytes_answer(
    *media_types: str, json: str | None = None, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A file of one of the types, or JSON of a named schema; with ``headers``, by name and meaning."""
    content: Schema = {} if json is None else {"application/json": {"schema": _schema(json)}}
    content |= {media_type: {"schema": {}} for media_type in media_types}
    return (
        {"content": content, "headers": _headers(headers or {})}
        if content
        else {"headers": _headers(headers or {})}
    )


def refused(*statuses: int) -> Answers:
    return {status: _refusal(status) for status in statuses}


def in_header(name: str, description: str) -> Schema:
    """A parameter that a route reads from the headers by itself."""
    return {"name": name, "in": "header", "required": False, "description": description, "schema": TEXT}


def describe(app: FastAPI) -> None:
    """Have ``app`` serve this description."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, summary=SUMMARY
    )
    for path in found["paths"].values():
        for operation in path.values():
            _complete(operation)
    parts = found.setdefault("components", {})
    parts["schemas"] = SCHEMAS
    parts["headers"] = {"x-request-id": {"required": True, "schema": TEXT, "description": "also in the log"}}
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{}, {"key": []}]  # a server on the loopback address has none
    return found


def _complete(operation: Schema) -> None:
    told = operation["responses"]
    told.pop("422", None)  # what FastAPI calls so is answered as 400
    given = {parameter["in"] for parameter in operation.get("parameters", ())}
    if "query" in given or "requestBody" in operation:
        told.setdefault("400", _refusal(400))
    for status in EVERYWHERE:
        told.setdefault(str(status), _refusal(status))
    for answer in told.values():
        answer.setdefault("headers", {})["x-request-id"] = {"$ref": "#/components/headers/x-request-id"}
        for content in answer.get("content", {}).values():
            if "$ref" in content.get(
                "schema", {}
            ):  # FastAPI leaves what it makes of the annotation beside it
                content["schema"] = {"$ref": content["schema"]["$ref"]}
    operation["responses"] = dict(sorted(told.items()))


def _refusal(status: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _schema("Error")}}
    return {
        "description": HTTPStatus(status).phrase,
        "content": content,
        "headers": _headers(_REFUSAL_HEADERS.get(status, {})),
    }


def _schema(schema: str | Schema) -> Schema:
    return {"$ref": f"#/components/schemas/{schema}"} if isinstance(schema, str) else schema


def _headers(meanings: Mapping[str, str]) -> Schema:
    return {
        name: {"description": meaning, "required": True, "schema": TEXT} for name, meaning in meanings.items()
    }


def _object(properties: Schema, *optional: str, description: str | None = None) -> Schema:
    """All properties but the ``optional`` are always there, and no others."""
    required = [name for name in properties if name not in optional]
    told: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        told["required"] = required
    return told if description is None else told | {"description": description}


def _or_null(schema: str | Schema) -> Schema:
    return {"anyOf": [_schema(schema), {"type": "null"}]}


def _list(of: str, cursor: Schema) -> Schema:
    return _object(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": _schema(of)},
            "first_id": _or_null(cursor),
            "last_id": _or_null(cursor),
            "has_more": FLAG,
        }
    )


def _page(of: str) -> Schema:
    return _object(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": _schema(of)},
            "total": COUNT,
            "offset": COUNT,
            "has_more": FLAG,
        }
    )


TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
INSTANT: Schema = {"type": "integer", "description": "seconds since the Unix epoch"}
TEXTS: Schema = {"type": "array", "items": TEXT}
EXPIRY: Schema = {
    "type": "object",
    "required": ["anchor", "seconds"],
    "properties": {
        "anchor": {"type": "string", "enum": ["created_at"]},
        "seconds": {"type": "integer", "minimum": 3_600, "maximum": 2_592_000},
    },
}
METADATA: Schema = {
    "type": ["object", "null"],
    "maxProperties": 16,
    "propertyNames": {"maxLength": 64},
    "additionalProperties": {"type": "string", "maxLength": 512},
}

_REFUSAL_HEADERS: dict[int, dict[str, str]] = {
    409: {"x-should-retry": "false: the same request will be refused again"},
    416: {"Content-Range": "the length of the file"},
    429: {"Retry-After": "seconds"},
    503: {"Retry-After": "seconds"},
}

SUMMARY = "Batch inference that speaks the OpenAI Batch API"
DESCRIPTION = """Files, uploads, batches and models as OpenAI's API has them; what is ours beside it lies
under the key `raybatch`, or on paths of its own. Every answer has an `x-request-id`; every refusal is the one
`Error` envelope. Every GET answers HEAD, too; a wrong method is answered by 405 and `Allow`."""

_FILE = _object(
    {
        "id": TEXT,
        "object": {"const": "file"},
        "bytes": COUNT,
        "created_at": INSTANT,
        "filename": TEXT,
        "purpose": {"enum": ["batch", "batch_output"]},
        "status": {"const": "processed"},
        "expires_at": INSTANT,
    },
    "expires_at",
)

_LINE_ERROR = _object({"code": TEXT, "message": TEXT, "param": _or_null(TEXT), "line": _or_null(COUNT)})

_ETA = _object({"p50_s": NUMBER, "p90_s": NUMBER, "p50_at": INSTANT, "p90_at": INSTANT})

_ESTIMATE = _object(
    {
        "estimated_time_minutes": NUMBER,
        "p90_time_minutes": NUMBER,
        "rows": COUNT,
        "rows_ahead": COUNT,
        "rows_per_s": NUMBER,
    }
)

_BATCH_EXTRA = _object(
    {
        "tenant": TEXT,
        "priority": WHOLE,
        "validation": {"enum": ["strict", "relaxed"]},
        "round": {"type": "integer", "minimum": 1, "description": "one more with every retry"},
        "paused": FLAG,
        "rows_per_s": NUMBER,
        "tokens_per_s": NUMBER,
        "eta": _or_null("Eta"),
        "eta_s": _or_null(NUMBER),
        "estimate": _or_null("Estimate"),
    },
    "estimate",
    description="what OpenAI's object does not have; an answer to a create has its estimate",
)

_USAGE = _object(
    {
        "input_tokens": COUNT,
        "input_tokens_details": _object({"cached_tokens": COUNT}),
        "output_tokens": COUNT,
        "output_tokens_details": _object({"reasoning_tokens": COUNT}),
        "total_tokens": COUNT,
    }
)

_BATCH = _object(
    {
        "id": TEXT,
        "object": {"const": "batch"},
        "endpoint": {"enum": list(ENDPOINTS)},
        "model": _or_null(TEXT),
        "errors": _or_null(
            _object({"object": {"const": "list"}, "data": {"type": "array", "items": _LINE_ERROR}})
        ),
        "input_file_id": TEXT,
        "completion_window": TEXT,
        "status": {"enum": [status.value for status in BatchStatus]},
        "output_file_id": _or_null(TEXT),
        "error_file_id": _or_null(TEXT),
        "created_at": INSTANT,
        "in_progress_at": _or_null(INSTANT),
        "expires_at": INSTANT,
        "finalizing_at": _or_null(INSTANT),
        "completed_at": _or_null(INSTANT),
        "failed_at": _or_null(INSTANT),
        "expired_at": _or_null(INSTANT),
        "cancelling_at": _or_null(INSTANT),
        "cancelled_at": _or_null(INSTANT),
        "request_counts": _object({"total": COUNT, "completed": COUNT, "failed": COUNT}),
        "usage": _USAGE,
        "metadata": METADATA,
        "raybatch": _schema("BatchExtra"),
        "estimate": _or_null("Estimate"),
    },
    "estimate",
    description="``estimate`` is there when the file came in the same request",
)

_MODEL_STATE = {
    "state": {"enum": ["ready", "loading", "failed", "waiting", "absent"]},
    "engines": TEXTS,
    "queued_rows": COUNT,
    "tokens_per_s": _or_null(NUMBER),
    "rows_per_s": _or_null(NUMBER),
    "error": _or_null(TEXT),
}

_MODEL = _object(
    {
        "id": TEXT,
        "object": {"const": "model"},
        "created": INSTANT,
        "owned_by": TEXT,
        "raybatch": _object(_MODEL_STATE),
    },
    "raybatch",
)

_DEAD_LETTER = _object(
    {
        "index": COUNT,
        "custom_id": _or_null(TEXT),
        "error_type": TEXT,
        "error_code": _or_null(TEXT),
        "error_message": _or_null(TEXT),
        "status_code": _or_null(WHOLE),
        "attempts": COUNT,
        "first_at": NUMBER,
        "last_at": NUMBER,
    }
)

_ANSWER = {
    "status_code": _or_null(WHOLE),
    "error_code": _or_null(TEXT),
    "error_message": _or_null(TEXT),
    "model": _or_null(TEXT),
    "text": _or_null(TEXT),
    "finish_reason": _or_null(TEXT),
    "prompt_tokens": COUNT,
    "completion_tokens": COUNT,
    "latency_ms": NUMBER,
}

_ROW = _object(
    {
        "index": COUNT,
        "custom_id": _or_null(TEXT),
        **_ANSWER,
        "cached_tokens": COUNT,
        "attempt": COUNT,
        "engine_id": TEXT,
        "started_at": NUMBER,
        "finished_at": NUMBER,
    }
)

_COMPARED_SIDE = _object(
    {
        "batch_id": TEXT,
        "model": _or_null(TEXT),
        "completed": COUNT,
        "failed": COUNT,
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "completion_tokens_mean": _or_null(NUMBER),
        "text_characters_mean": _or_null(NUMBER),
        "latency_ms": _or_null(_object({"p50": NUMBER, "p90": NUMBER, "p99": NUMBER})),
        "finish_reasons": {"type": "object", "additionalProperties": COUNT},
        "errors": {"type": "object", "additionalProperties": COUNT},
        "score": _or_null(NUMBER),
        "scored": COUNT,
    },
    description="over the finished rows; means of completed ones, ``score`` of the rows that have one",
)

_LOG_ENTRY = _object({"at": NUMBER, "kind": TEXT, "message": TEXT, "engine": _or_null(TEXT)})

_HEALTH = {  # open: what an engine or a GPU tells grows with them
    "type": "object",
    "required": ["status", "reasons", "scheduler"],
    "properties": {
        "status": {"enum": ["ok", "loading", "degraded", "unavailable"]},
        "reasons": TEXTS,
        "scheduler": {"type": ["object", "null"]},
        "paused": FLAG,
        "quiet": _or_null(TEXT),
        "disk_free_bytes": _or_null(COUNT),
        "engines": {"type": "array", "items": {"type": "object", "required": ["id", "phase", "verdict"]}},
        "models": {"type": "array", "items": _object({"id": TEXT} | _MODEL_STATE)},
        "queue": {"type": "object"},
    },
}

SCHEMAS: dict[str, Schema] = {
    "Error": _object(
        {"error": _object({"message": TEXT, "type": TEXT, "param": _or_null(TEXT), "code": _or_null(TEXT)})}
    ),
    "File": _FILE,
    "FileList": _list("File", TEXT),
    "FileDeleted": _object({"id": TEXT, "object": {"const": "file"}, "deleted": {"const": True}}),
    "Upload": _object(
        {
            "id": TEXT,
            "object": {"const": "upload"},
            "bytes": COUNT,
            "created_at": INSTANT,
            "filename": TEXT,
            "purpose": {"const": "batch"},
            "status": {"enum": ["pending", "completed", "cancelled", "expired"]},
            "expires_at": INSTANT,
            "file": _or_null("File"),
        }
    ),
    "UploadPart": _object(
        {"id": TEXT, "object": {"const": "upload.part"}, "created_at": INSTANT, "upload_id": TEXT}
    ),
    "Batch": _BATCH,
    "BatchExtra": _BATCH_EXTRA,
    "BatchList": _list("Batch", TEXT),
    "BatchDeleted": _object(
        {
            "id": TEXT,
            "object": {"const": "batch"},
            "deleted": FLAG,
            "status": {"enum": [status.value for status in BatchStatus]},
        }
    ),
    "Estimate": _ESTIMATE,
    "Eta": _ETA,
    "Model": _MODEL,
    "ModelList": _list("Model", TEXT),
    "DeadLetter": _DEAD_LETTER,
    "DeadLetterList": _list("DeadLetter", COUNT),
    "Row": _ROW,
    "RowPage": _page("Row"),
    "RowLines": _object(
        {"object": {"const": "row"}, "index": COUNT, "request": _or_null(TEXT), "response": TEXT},
        description="a row's line of the input and its line of the results, as they are in the files",
    ),
    "Dataset": _object(
        {"object": {"const": "dataset"}, "id": TEXT, "requests": COUNT, "batch_ids": TEXTS},
        description="``id`` is a digest of the questions: the input's bytes but for the models' names",
    ),
    "DatasetList": _list("Dataset", TEXT),
    "Comparison": _object(
        {
            "object": {"const": "comparison"},
            "rows": COUNT,
            "differing": COUNT,
            "sides": {"type": "array", "items": _COMPARED_SIDE},
        }
    ),
    "ComparedRow": _object(
        {
            "index": COUNT,
            "custom_id": _or_null(TEXT),
            "differs": FLAG,
            "sides": {"type": "array", "items": _or_null(_object(_ANSWER | {"score": _or_null(NUMBER)}))},
        },
        description="in the order of the batches asked for; null where a batch has not finished the row",
    ),
    "ComparedRowPage": _page("ComparedRow"),
    "LogEntry": _LOG_ENTRY,
    "LogEntryList": _object(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": _schema("LogEntry")},
            "has_more": FLAG,
        }
    ),
    "Health": _HEALTH,
    "Readiness": _object({"status": {"enum": ["ok", "unavailable"]}, "reasons": TEXTS}, "reasons"),
}
