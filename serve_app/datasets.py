"""``/v1/datasets``: which batches ran over the same questions, whatever model each asked."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import groupby
from typing import Annotated

from fastapi import APIRouter, Query

from raybatch.actors.reads import Page
from raybatch.core.model import Batch
from raybatch.storage.dataset import dataset_digest
from raybatch.wire.openai_objects import Json, list_object
from serve_app.door import Door, TheDoor
from serve_app.openapi_schemas import answers
from serve_app.threads import in_thread

router = APIRouter(prefix="/v1/datasets", tags=["batches"])


@router.get("", responses=answers("DatasetList", 503))
async def list_datasets(
    door: TheDoor,
    limit: Annotated[int, Query(ge=1, le=100, description="of the newest batches that are looked at")] = 100,
) -> Json:
    """The inputs that two or more batches share, the one with the newest batch first.

    The same questions are the same bytes but for the models' names, so a file written for another model is
    the same dataset. An input is read for it once, and only where another one has as many lines.
    """
    page: Page[Batch] = await door.scheduler.read("batches", door.tenant, None, limit)
    found: dict[str, list[Batch]] = {}
    for batch in _of_equal_length(page.items):
        with suppress(FileNotFoundError):  # retention has taken the input: nobody can say what it was
            found.setdefault(await _digest(door, batch), []).append(batch)
    shared = [(digest, batches) for digest, batches in found.items() if len(batches) > 1]
    shared.sort(key=lambda one: one[1][0].created_at, reverse=True)
    return list_object([_dataset(digest, batches) for digest, batches in shared])


def _of_equal_length(batches: Iterable[Batch]) -> list[Batch]:
    """Those that are as long as another one; newest first among them."""
    by_total = sorted((batch for batch in batches if batch.total), key=lambda batch: batch.total)
    groups = [list(group) for _, group in groupby(by_total, key=lambda batch: batch.total)]
    return [batch for group in groups if len(group) > 1 for batch in group]


async def _digest(door: Door, batch: Batch) -> str:
    upload = door.blobs.path(batch.input_file_id)
    return await in_thread(lambda: dataset_digest(upload))


def _dataset(digest: str, batches: list[Batch]) -> Json:
    return {
        "object": "dataset",
        "id": digest,
        "requests": batches[0].total,
        "batch_ids": [batch.batch_id for batch in batches],
    }
