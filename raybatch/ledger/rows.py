"""How entities look as ledger rows. One list per table, so that columns, types and order cannot drift."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from raybatch.core.model import (
    Batch,
    BatchStatus,
    Chunk,
    ChunkState,
    File,
    LineError,
    LogEntry,
    ModelRate,
    ModelSpan,
    PartFile,
    Redrive,
    RowSpan,
    Tally,
    Usage,
    Validation,
)
from raybatch.core.state import Image

Row = tuple[Any, ...]
Cells = dict[str, Any]  #: a row by column name


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    key: str  #: the first column
    columns: tuple[tuple[str, str], ...]  #: name and DuckDB type
    row_of: Callable[[Image], Row]
    image_of: Callable[[Cells], Image]

    @property
    def key_type(self) -> str:
        return self.columns[0][1]


def _file_row(image: Image) -> Row:
    file = image.entity
    assert isinstance(file, File)
    return (
        file.file_id,
        file.tenant,
        file.purpose,
        file.filename,
        file.size_bytes,
        file.created_at,
        file.sha256,
        file.batch_id,
        file.part_kind,
        file.deleted,
        file.lines,
        file.round,
        file.expires_at,
    )


def _batch_row(image: Image) -> Row:
    batch = image.entity
    assert isinstance(batch, Batch)
    usage = batch.tally.usage
    return (
        batch.batch_id,
        batch.tenant,
        batch.input_file_id,
        batch.endpoint,
        batch.completion_window,
        batch.completion_window_s,
        batch.created_at,
        str(batch.status),
        batch.model,
        None if batch.metadata is None else json.dumps(batch.metadata),
        batch.priority,
        batch.request_key,
        batch.idempotency_key,
        batch.output_file_id,
        batch.error_file_id,
        batch.total,
        batch.cursor,
        batch.tally.completed,
        batch.tally.failed,
        batch.tally.output_bytes,
        batch.tally.error_bytes,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        json.dumps(msgspec.to_builtins(batch.errors)),
        batch.expected_tokens,
        batch.in_progress_at,
        batch.finalizing_at,
        batch.completed_at,
        batch.failed_at,
        batch.expired_at,
        batch.cancelling_at,
        batch.cancelled_at,
        batch.round,
        batch.paused_at,
        batch.paused_s,
        batch.output_expires_after_s,
        batch.validation,
        json.dumps(msgspec.to_builtins(batch.spans)),
        batch.place,
    )


def _batch_image(cells: Cells) -> Image:
    usage = Usage(*(cells.pop(name) for name in ("prompt_tokens", "completion_tokens", "cached_tokens")))
    sums = [cells.pop(name) for name in ("completed", "failed", "output_bytes", "error_bytes")]
    metadata, errors = cells.pop("metadata"), cells.pop("errors")
    validation, spans = cells.pop("validation"), cells.pop("spans")
    batch = Batch(
        **cells | {"status": BatchStatus(cells["status"])},
        metadata=None if metadata is None else json.loads(metadata),
        tally=Tally(sums[0], sums[1], sums[2], sums[3], usage),
        errors=msgspec.convert(json.loads(errors), tuple[LineError, ...]),
        validation=None if validation is None else Validation(validation),
        spans=msgspec.convert(json.loads(spans), tuple[ModelSpan, ...]),
    )
    return Image("batches", batch.batch_id, batch)


def _chunk_row(image: Image) -> Row:
    chunk = image.entity
    assert isinstance(chunk, Chunk)
    return (
        chunk.chunk_id,
        chunk.batch_id,
        chunk.first,
        chunk.count,
        str(chunk.state),
        chunk.token,
        chunk.engine_id,
        f"{chunk.covered:x}",
        chunk.attempt,
        f"{chunk.exposed:x}",
        chunk.suspect,
        chunk.alone_deaths,
    )


def _chunk_image(cells: Cells) -> Image:
    covered, exposed = (int(cells.pop(name), 16) for name in ("covered_hex", "exposed_hex"))
    chunk = Chunk(**cells | {"state": ChunkState(cells["state"])}, covered=covered, exposed=exposed)
    return Image("chunks", chunk.chunk_id, chunk)


def _part_row(image: Image) -> Row:
    part = image.entity
    assert isinstance(part, PartFile)
    return (
        part.part_id,
        image.batch_id,
        part.path,
        part.size_bytes,
        part.rows,
        part.checksum,
        part.level,
        list(part.masked),
        part.round,
    )


def _part_image(cells: Cells) -> Image:
    batch_id, masked = cells.pop("batch_id"), tuple(cells.pop("masked"))
    part = PartFile(**cells, masked=masked)
    return Image("parts", part.part_id, part, batch_id)


def _redrive_row(image: Image) -> Row:
    redrive = image.entity
    assert isinstance(redrive, Redrive)
    spans = [[span.first, f"{span.rows:x}", span.attempt] for span in redrive.spans]
    return (image.key, redrive.batch_id, redrive.round, json.dumps(spans))


def _redrive_image(cells: Cells) -> Image:
    spans = tuple(
        RowSpan(first, int(rows, 16), attempt) for first, rows, attempt in json.loads(cells["spans"])
    )
    return Image("redrives", cells["redrive_id"], Redrive(cells["batch_id"], cells["round"], spans))


def _entry_row(image: Image) -> Row:
    entry = image.entity
    assert isinstance(entry, LogEntry)
    return (entry.entry_id, entry.at, entry.kind, entry.message, entry.batch_id, entry.engine_id)


def _rate_row(image: Image) -> Row:
    rate = image.entity
    assert isinstance(rate, ModelRate)
    return (rate.model, rate.tokens_per_s, rate.deviation, rate.rows_per_s, rate.measured_at)


TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        Table(
            "files",
            "file_id",
            (
                ("file_id", "VARCHAR"),
                ("tenant", "VARCHAR"),
                ("purpose", "VARCHAR"),
                ("filename", "VARCHAR"),
                ("size_bytes", "BIGINT"),
                ("created_at", "DOUBLE"),
                ("sha256", "VARCHAR"),
                ("batch_id", "VARCHAR"),
                ("part_kind", "VARCHAR"),
                ("deleted", "BOOLEAN"),
                ("lines", "BIGINT"),
                ("round", "INTEGER"),
                ("expires_at", "DOUBLE"),
            ),
            _file_row,
            lambda cells: Image("files", cells["file_id"], File(**cells)),
        ),
        Table(
            "batches",
            "batch_id",
            (
                ("batch_id", "VARCHAR"),
                ("tenant", "VARCHAR"),
                ("input_file_id", "VARCHAR"),
                ("endpoint", "VARCHAR"),
                ("completion_window", "VARCHAR"),
                ("completion_window_s", "DOUBLE"),
                ("created_at", "DOUBLE"),
                ("status", "VARCHAR"),
                ("model", "VARCHAR"),
                ("metadata", "VARCHAR"),
                ("priority", "INTEGER"),
                ("request_key", "VARCHAR"),
                ("idempotency_key", "VARCHAR"),
                ("output_file_id", "VARCHAR"),
                ("error_file_id", "VARCHAR"),
                ("total", "BIGINT"),
                ("cursor", "BIGINT"),
                ("completed", "BIGINT"),
                ("failed", "BIGINT"),
                ("output_bytes", "BIGINT"),
                ("error_bytes", "BIGINT"),
                ("prompt_tokens", "BIGINT"),
                ("completion_tokens", "BIGINT"),
                ("cached_tokens", "BIGINT"),
                ("errors", "VARCHAR"),
                ("expected_tokens", "BIGINT"),
                ("in_progress_at", "DOUBLE"),
                ("finalizing_at", "DOUBLE"),
                ("completed_at", "DOUBLE"),
                ("failed_at", "DOUBLE"),
                ("expired_at", "DOUBLE"),
                ("cancelling_at", "DOUBLE"),
                ("cancelled_at", "DOUBLE"),
                ("round", "INTEGER"),
                ("paused_at", "DOUBLE"),
                ("paused_s", "DOUBLE"),
                ("output_expires_after_s", "BIGINT"),
                ("validation", "VARCHAR"),
                ("spans", "VARCHAR"),
                ("place", "BIGINT"),
            ),
            _batch_row,
            _batch_image,
        ),
        Table(
            "chunks",
            "chunk_id",
            (
                ("chunk_id", "BIGINT"),
                ("batch_id", "VARCHAR"),
                ("first", "BIGINT"),
                ("count", "INTEGER"),
                ("state", "VARCHAR"),
                ("token", "BIGINT"),
                ("engine_id", "VARCHAR"),
                ("covered_hex", "VARCHAR"),
                ("attempt", "INTEGER"),
                ("exposed_hex", "VARCHAR"),
                ("suspect", "BOOLEAN"),
                ("alone_deaths", "INTEGER"),
            ),
            _chunk_row,
            _chunk_image,
        ),
        Table(
            "parts",
            "part_id",
            (
                ("part_id", "VARCHAR"),
                ("batch_id", "VARCHAR"),
                ("path", "VARCHAR"),
                ("size_bytes", "BIGINT"),
                ("rows", "BIGINT"),
                ("checksum", "VARCHAR"),
                ("level", "INTEGER"),
                ("masked", "BIGINT[]"),
                ("round", "INTEGER"),
            ),
            _part_row,
            _part_image,
        ),
        Table(
            "redrives",
            "redrive_id",
            (
                ("redrive_id", "VARCHAR"),
                ("batch_id", "VARCHAR"),
                ("round", "INTEGER"),
                ("spans", "VARCHAR"),
            ),
            _redrive_row,
            _redrive_image,
        ),
        Table(
            "log",
            "entry_id",
            (
                ("entry_id", "BIGINT"),
                ("at", "DOUBLE"),
                ("kind", "VARCHAR"),
                ("message", "VARCHAR"),
                ("batch_id", "VARCHAR"),
                ("engine_id", "VARCHAR"),
            ),
            _entry_row,
            lambda cells: Image("log", cells["entry_id"], LogEntry(**cells)),
        ),
        Table(
            "rates",
            "model",
            (
                ("model", "VARCHAR"),
                ("tokens_per_s", "DOUBLE"),
                ("deviation", "DOUBLE"),
                ("rows_per_s", "DOUBLE"),
                ("measured_at", "DOUBLE"),
            ),
            _rate_row,
            lambda cells: Image("rates", cells["model"], ModelRate(**cells)),
        ),
        Table(
            "counters",
            "name",
            (("name", "VARCHAR"), ("value", "BIGINT")),
            lambda image: (image.key, image.entity),
            lambda cells: Image("counters", cells["name"], cells["value"]),
        ),
    )
}
