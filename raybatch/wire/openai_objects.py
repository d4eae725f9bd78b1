"""Files, batches, models and lists as OpenAI's API shows them.

The stock client's strict models must accept each; what is ours goes under the one key ``raybatch``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raybatch.core.large_upload import LargeUpload, UploadStatus
from raybatch.core.model import TERMINAL, Batch, File, LineError, Usage

ERRORS_SHOWN_MAX = 100

Json = dict[str, object]


def file_object(file: File) -> Json:
    shown: Json = {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",  # anything else makes the SDK's wait_for_processing wait for half an hour
    }
    if file.expires_at is not None:
        shown["expires_at"] = int(file.expires_at)
    return shown


def upload_object(upload: LargeUpload, status: UploadStatus) -> Json:
    return {
        "id": upload.upload_id,
        "object": "upload",
        "bytes": upload.size_bytes,
        "created_at": int(upload.created_at),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": status.value,
        "expires_at": int(upload.expires_at),
        "file": None if upload.file is None else file_object(upload.file),
    }


def batch_object(batch: Batch, raybatch_extra: Json | None = None) -> Json:
    """``raybatch_extra``: our own fields, under the one extra key ``raybatch``."""
    terminal = batch.status in TERMINAL
    shown: Json = {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": _errors(batch.errors),
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id if terminal and batch.tally.completed else None,
        "error_file_id": batch.error_file_id if terminal and batch.tally.failed else None,
        "created_at": int(batch.created_at),
        "in_progress_at": _seconds(batch.in_progress_at),
        "expires_at": int(batch.expires_at),
        "finalizing_at": _seconds(batch.finalizing_at),
        "completed_at": _seconds(batch.completed_at),
        "failed_at": _seconds(batch.failed_at),
        "expired_at": _seconds(batch.expired_at),
        "cancelling_at": _seconds(batch.cancelling_at),
        "cancelled_at": _seconds(batch.cancelled_at),
        "request_counts": {
            "total": batch.total,
            "completed": batch.tally.completed,
            "failed": batch.tally.failed,
        },
        "usage": _usage(batch.tally.usage),
        "metadata": batch.metadata,
    }
    if raybatch_extra is not None:
        shown["raybatch"] = raybatch_extra
    return shown


def model_object(model_id: str, created_at: float, raybatch_extra: Json | None = None) -> Json:
    """``raybatch_extra``: our own fields, under the one extra key ``raybatch``."""
    shown: Json = {"id": model_id, "object": "model", "created": int(created_at), "owned_by": "raybatch"}
    if raybatch_extra is not None:
        shown["raybatch"] = raybatch_extra
    return shown


def list_object(shown: Sequence[Mapping[str, object]], *, has_more: bool = False, cursor: str = "id") -> Json:
    """One page. ``cursor``: the field of each object that a next page is asked for after."""
    return {
        "object": "list",
        "data": list(shown),
        "first_id": shown[0][cursor] if shown else None,
        "last_id": shown[-1][cursor] if shown else None,
        "has_more": has_more,
    }


def _errors(errors: Sequence[LineError]) -> Json | None:
    if not errors:
        return None
    shown = [
        {"code": error.code, "message": error.message, "param": error.param, "line": error.line}
        for error in errors[:ERRORS_SHOWN_MAX]
    ]
    return {"object": "list", "data": shown}


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _seconds(instant_at: float | None) -> int | None:
    return None if instant_at is None else int(instant_at)
