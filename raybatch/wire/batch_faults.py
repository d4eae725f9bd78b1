"""The faults of an input file that no single line shows: their codes and words."""

from __future__ import annotations

from raybatch.core.model import LineError
from raybatch.wire.request_line import quoted


def empty_file() -> LineError:
    message = "The input file holds no requests. Expected one JSON object a line, at least one of them."
    return LineError("empty_file", message, None, None)


def too_many_tasks(found: int, requests_max: int) -> LineError:
    message = (
        f"The input file holds {found:,} requests; a batch may hold {requests_max:,} "
        "(setting scheduler.requests_max). Split the file into several batches."
    )
    return LineError("too_many_tasks", message, None, None)


def too_many_embedding_inputs(found: int, inputs_max: int) -> LineError:
    message = (
        f"The input file holds {found:,} inputs to embed; a batch may hold {inputs_max:,} "
        "(setting scheduler.embedding_inputs_max). Split the file into several batches."
    )
    return LineError("too_many_tasks", message, None, None)


def line_too_long(line_number: int, found_bytes: int, line_bytes_max: int) -> LineError:
    message = (
        f"This line is {found_bytes:,} bytes long; a request may have {line_bytes_max:,} "
        "(setting intake.line_bytes_max)."
    )
    return LineError("line_too_long", message, None, line_number)


def duplicate_custom_id(line_number: int, custom_id: str, first_line_number: int) -> LineError:
    message = (
        f"The custom_id '{quoted(custom_id)}' for this request is a duplicate of another request. "
        "The custom_id parameter must be unique for each request in a batch. "
        f"It was first used on line {first_line_number}."
    )
    return LineError("duplicate_custom_id", message, "custom_id", line_number)


def mismatched_model(line_number: int, model_named: str) -> LineError:
    message = (
        f"The model '{quoted(model_named)}' for this request does not match the rest of the batch. "
        "Each batch must contain requests for a single model."
    )
    return LineError("mismatched_model", message, "body.model", line_number)
