"""How long a batch will take, said when it is handed in: from what its model's engines were measured to do.

Its tokens are not counted yet then, so its rows are taken to be as long as those that were measured. Once the
batch runs, its ETA knows better.
"""

from __future__ import annotations

import msgspec

from raybatch.actors.reads import Overview, Page
from raybatch.core.estimate import time_for
from raybatch.core.model import Batch, File, ModelRate
from raybatch.errors import NotFound
from raybatch.wire.jsonl import read_lines
from raybatch.wire.openai_objects import Json
from serve_app.door import Door
from serve_app.threads import in_thread

BATCHES_BESIDE_MAX = 100  #: the newest, among which those are looked for that run already


async def estimate(
    door: Door, overview: Overview, file: File, first_line: bytes | None, priority: int
) -> Json | None:
    """None while the model is not known or nothing of it was measured. ``first_line``: of the file."""
    rate = _rate(door, overview, first_line)
    if rate is None or rate.rows_per_s <= 0 or file.lines is None:
        return None
    page: Page[Batch] = await door.scheduler.read("batches", door.tenant, None, BATCHES_BESIDE_MAX)
    tokens = file.lines * rate.tokens_per_s / rate.rows_per_s
    found = time_for(rate.model, tokens, priority, page.items, rate)
    if found is None:
        return None
    return {
        "estimated_time_minutes": round(found.p50_s / 60, 2),
        "p90_time_minutes": round(found.p90_s / 60, 2),
        "rows": file.lines,
        "rows_ahead": max(0, round(found.p50_s * rate.rows_per_s) - file.lines),
        "rows_per_s": round(rate.rows_per_s, 3),
    }


async def first_line_of(door: Door, file: File) -> bytes | None:
    """The first line of an upload that is not blank; None when it is too long to be looked at."""

    def read() -> bytes | None:
        try:
            head = next(door.blobs.chunks(file.file_id), b"")
        except NotFound:
            return None
        line = next(read_lines([head], door.settings.intake.line_bytes_max), None)
        return None if line is None else line.text

    return await in_thread(read)


def line_model(line: bytes | None) -> str | None:
    """None where the line names none: intake will say so."""
    try:
        return msgspec.json.decode(line or b"", type=_Line).body.model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class _Body(msgspec.Struct):
    model: str


class _Line(msgspec.Struct):
    body: _Body


def _rate(door: Door, overview: Overview, first_line: bytes | None) -> ModelRate | None:
    model = door.settings.canonical().get(line_model(first_line) or "")
    return next((view.rate for view in overview.models if view.model == model), None)
