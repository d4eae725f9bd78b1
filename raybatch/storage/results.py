"""SQL over everything batches leave behind: ``batches``, ``results``, ``requests``, ``failed`` and ``log``.

Refuses to write: only statements that read are run. It is no sandbox: whoever may ask here may read any file
this process may read, so it is for the operator at the machine. The views read exactly the files the manifest
names; a directory is never listed.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from raybatch.core.model import Batch, PartFile
from raybatch.errors import BadRequest, Corrupt
from raybatch.storage.manifest import BatchFiles, Manifest
from raybatch.storage.parts import INSTANT, SCHEMA, existing_part

THREADS = 2
MEMORY_MAX = "1GB"
LINE_BYTES_MAX = 64 << 20  #: of an uploaded line; a longer one makes ``requests`` fail rather than lack a row


def open_sql(home: Path, manifest: Manifest) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with these views. Raises Corrupt naming the first file that is missing.

    While a batch runs, compaction may remove files later on: a query then fails, and a fresh manifest helps.
    Sizes are checked, checksums are not: that would read every byte before the first answer.
    """
    home = home.absolute()
    spill = home / "tmp"
    spill.mkdir(parents=True, exist_ok=True)
    con = duckdb.connect(
        config={
            "threads": THREADS,
            "memory_limit": MEMORY_MAX,
            "temp_directory": str(spill),
        }
    )
    con.execute("SET TimeZone = 'UTC'")
    con.execute("CREATE SCHEMA manifest")
    _create_table(con, "batches", _batches(manifest))
    _create_table(con, "log", _log(manifest))
    _create_table(con, "manifest.no_results", SCHEMA.empty_table())
    _create_results(con, home, "results", (part for files in manifest.batches for part in files.parts))
    earlier = (part for files in manifest.batches for part in files.earlier)
    _create_results(con, home, "manifest.earlier", earlier)
    con.execute(f"CREATE VIEW requests AS {_requests_sql(home, manifest)}")
    con.execute(f"CREATE VIEW failed AS {_FAILED_SQL}")
    return con


def query(con: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """Run one reading statement and answer its whole result. Raises BadRequest saying what is wrong."""
    try:
        statement = _reading_statement(con.extract_statements(sql))
        if statement.type == duckdb.StatementType.EXPLAIN:
            explained = _EXPLAIN.sub("", statement.query, count=1)
            _reading_statement(con.extract_statements(explained), types=(duckdb.StatementType.SELECT,))
        return con.execute(statement).to_arrow_table()
    except duckdb.IOException as error:
        raise Corrupt(f"{error}\nIf the batch was running, its files have moved: ask again.") from error
    except duckdb.Error as error:
        raise BadRequest(str(error)) from error


#: DESCRIBE, SHOW and SUMMARIZE are SELECT to the parser
_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(\([^)]*\)\s*)?", re.IGNORECASE)


def _reading_statement(
    statements: Sequence[duckdb.Statement], types: Sequence[duckdb.StatementType] = _READING
) -> duckdb.Statement:
    found = ", ".join(statement.type.name for statement in statements) or "none"
    if len(statements) != 1 or statements[0].type not in types:
        raise BadRequest(
            "Expected one statement that reads (SELECT, WITH, FROM, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN),"
            f" found: {found}."
        )
    return statements[0]


def _create_table(con: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    con.register("arriving", rows)
    con.execute(f"CREATE TABLE {name} AS FROM arriving")
    con.unregister("arriving")


_TEXT, _COUNT = pa.string(), pa.int64()
_BATCHES = pa.schema(
    {
        "batch_id": _TEXT,
        "tenant": _TEXT,
        "status": _TEXT,
        "endpoint": _TEXT,
        "model": _TEXT,
        "priority": _COUNT,
        "round": _COUNT,
        "paused": pa.bool_(),
        "input_file_id": _TEXT,
        "output_file_id": _TEXT,
        "error_file_id": _TEXT,
        "completion_window": _TEXT,
        "total": _COUNT,
        "completed": _COUNT,
        "failed": _COUNT,
        "output_bytes": _COUNT,
        "error_bytes": _COUNT,
        "prompt_tokens": _COUNT,
        "completion_tokens": _COUNT,
        "cached_tokens": _COUNT,
        "created_at": INSTANT,
        "in_progress_at": INSTANT,
        "expires_at": INSTANT,
        "finalizing_at": INSTANT,
        "completed_at": INSTANT,
        "failed_at": INSTANT,
        "expired_at": INSTANT,
        "cancelling_at": INSTANT,
        "cancelled_at": INSTANT,
        "errors": _TEXT,
        "metadata": _TEXT,
    }
)


def _batches(manifest: Manifest) -> pa.Table:
    return pa.Table.from_pylist([_batch_row(files.batch) for files in manifest.batches], schema=_BATCHES)


def _batch_row(batch: Batch) -> dict[str, Any]:
    """One row under ``_BATCHES``: a column is the batch's field of that name unless it is given here."""
    tally, ended = batch.tally, not batch.active
    row: dict[str, Any] = {
        "status": batch.status.value,
        "output_file_id": batch.output_file_id if ended and tally.completed else None,
        "error_file_id": batch.error_file_id if ended and tally.failed else None,
        "completed": tally.completed,
        "failed": tally.failed,
        "output_bytes": tally.output_bytes,
        "error_bytes": tally.error_bytes,
        "prompt_tokens": tally.usage.prompt_tokens,
        "completion_tokens": tally.usage.completion_tokens,
        "cached_tokens": tally.usage.cached_tokens,
        "expires_at": batch.expires_at,
        "paused": batch.active and batch.paused_at is not None,
        "errors": json.dumps([asdict(error) for error in batch.errors]) if batch.errors else None,
        "metadata": None if batch.metadata is None else json.dumps(batch.metadata),
    }
    row = {name: row[name] if name in row else getattr(batch, name) for name in _BATCHES.names}
    instants = [field.name for field in _BATCHES if field.type == INSTANT and row[field.name] is not None]
    return row | {name: round(row[name] * 1_000_000) for name in instants}


_LOG = pa.schema(
    {
        "logged_at": INSTANT,
        "kind": _TEXT,
        "message": _TEXT,
        "batch_id": _TEXT,
        "engine_id": _TEXT,
        "entry_id": _COUNT,
    }
)


def _log(manifest: Manifest) -> pa.Table:
    rows = [asdict(entry) | {"logged_at": round(entry.at * 1_000_000)} for entry in manifest.log]
    return pa.Table.from_pylist(rows, schema=_LOG)


def _create_results(con: duckdb.DuckDBPyConnection, home: Path, view: str, parts: Iterable[PartFile]) -> None:
    """A view over the rows of ``parts`` that count. Files that hide the same positions share one branch.

    The directory tells the batch, so that a condition on ``batch_id`` leaves other files unopened.
    """
    paths_by_mask: dict[tuple[int, ...], list[Path]] = {}
    for part in parts:
        paths_by_mask.setdefault(part.masked, []).append(existing_part(home, part))
    columns = ", ".join(f'"{name}"' for name in SCHEMA.names)
    branches = [f"SELECT NULL::VARCHAR AS batch_id, {columns} FROM manifest.no_results"]
    for number, (mask, paths) in enumerate(paths_by_mask.items()):
        condition = "true"
        if mask:
            hidden = f"manifest.hidden_from_{view.removeprefix('manifest.')}_{number}"
            _create_table(con, hidden, pa.table({"position": pa.array(mask, _COUNT)}))
            condition = f"NOT EXISTS (FROM {hidden} AS hidden WHERE hidden.position = part.position)"
        branches.append(
            f"SELECT regexp_extract(filename, 'batch_id=([^/]+)/[^/]+$', 1) AS batch_id, {columns}"
            f" FROM read_parquet([{', '.join(map(_literal_path, paths))}], filename = true,"
            f" hive_partitioning = false) AS part WHERE {condition}"
        )
    con.execute(f"CREATE VIEW {view} AS {' UNION ALL '.join(branches)}")


def _requests_sql(home: Path, manifest: Manifest) -> str:
    """The uploads as they are. A line that is no JSON (relaxed batches may have some) keeps its place."""
    none = "SELECT NULL::VARCHAR AS batch_id, NULL::BIGINT AS index, NULL::JSON AS request WHERE false"
    branches = [none, *(_upload_sql(home, files) for files in manifest.batches if files.blob is not None)]
    return f"""SELECT batch_id, index, request ->> '$.custom_id' AS custom_id, request ->> '$.url' AS url,
        request ->> '$.body.model' AS model, request -> '$.body' AS body
        FROM ({" UNION ALL ".join(branches)})"""


def _upload_sql(home: Path, files: BatchFiles) -> str:
    path = home / str(files.blob)
    if not path.is_file():
        raise Corrupt(f"{path}, the input of {files.batch.batch_id}, is missing.")
    marked = _line_behind_mark(path)
    request, skipped = "json", 0
    if marked is not None:
        request = f"CASE row_number() OVER () WHEN 1 THEN TRY({_literal(marked)}::JSON) ELSE json END"
        skipped = 0 if marked.strip() else 1
    return f"""SELECT {_literal(files.batch.batch_id)}, row_number() OVER () - {1 + skipped}, {request}
        FROM read_ndjson_objects({_literal_path(path)}, ignore_errors = true,
            maximum_object_size = {LINE_BYTES_MAX})
        QUALIFY row_number() OVER () > {skipped}"""


def _line_behind_mark(path: Path) -> str | None:
    """The first line of a file with a byte order mark: DuckDB counts it, but finds no JSON in it."""
    with path.open("rb") as file:
        marked = file.read(len(BOM_UTF8)) == BOM_UTF8
        return file.readline().decode(errors="replace") if marked else None


#: as storage.dead_letters tells them; ``manifest.earlier`` has rows of batches that were retried only
_FAILED_SQL = """
    SELECT batch_id, index, custom_id, status_code,
        coalesce(
            CASE WHEN status_code IS NOT NULL THEN TRY(line ->> '$.response.body.error.type') END,
            error_code,
            coalesce('http_' || status_code, 'unknown')
        ) AS error_type,
        error_code, error_message, attempt AS attempts, engine_id,
        least(results.started_at, earliest.started_at) AS first_at, finished_at AS last_at
    FROM results LEFT JOIN (
        SELECT batch_id, index, min(started_at) AS started_at FROM manifest.earlier
        WHERE status_code IS NULL OR status_code >= 400 GROUP BY ALL
    ) AS earliest USING (batch_id, index)
    WHERE status_code IS NULL OR status_code >= 400"""


def _literal_path(path: Path) -> str:
    """DuckDB takes every path for a pattern; a one-letter class stands for a letter that would be special."""
    return _literal(re.sub(r"[*?[]", r"[\g<0>]", str(path)))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
