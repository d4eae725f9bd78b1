"""`raybatch sql`: one reading statement over everything batches left behind, running or stopped."""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.measure import Measurement

from raybatch.actors.connection import Connection
from raybatch.cli.show import cell, print_json, stdout, table
from raybatch.errors import Corrupt, NotFound, OperatorError

if TYPE_CHECKING:
    from raybatch.actors.reads import BatchRows
    from raybatch.core.model import LogEntry
    from raybatch.storage.manifest import BatchFiles, Manifest

SHOWN_ROWS_MAX = 1_000
READABLE_MAX = 10_000  #: columns of text, beyond which nobody measures
READINGS_MAX = 3  #: compaction may move files between the manifest and the query


@dataclass(frozen=True)
class Answer:
    columns: list[str]
    rows: list[tuple[object, ...]]


def sql(
    ctx: typer.Context,
    statement: Annotated[str, typer.Argument(metavar="SQL", help="One statement that reads.")],
    batch: Annotated[
        str | None, typer.Option(help="Only this batch's files; quicker where there are many.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
) -> None:
    """Ask SQL (DuckDB's) over batches, results, requests, failed and log; while batches run, too."""
    answer = ask(ctx.ensure_object(Connection), statement, batch)
    if as_json:
        print_json([dict(zip(answer.columns, row, strict=True)) for row in answer.rows])
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows(answer.rows)
    else:
        print_answer(answer)


def print_answer(answer: Answer) -> None:
    """As a table; where that is too wide to be read, as a block of lines for each row."""
    console, rows = stdout(), answer.rows[:SHOWN_ROWS_MAX]
    wide = table(answer.columns, rows)
    needed = Measurement.get(console, console.options.update(max_width=READABLE_MAX), wide).maximum
    if needed <= console.width or not rows:
        console.print(wide)
    else:
        for number, row in enumerate(rows, start=1):
            console.print(table((f"row {number}", ""), zip(answer.columns, map(cell, row), strict=True)))
    if len(answer.rows) > SHOWN_ROWS_MAX:
        typer.echo(
            f"the first {SHOWN_ROWS_MAX:,} of {len(answer.rows):,} rows: --csv or --json prints all", err=True
        )


def ask(connection: Connection, statement: str, batch_id: str | None = None) -> Answer:
    """Over all batches, or over one. Raises BadRequest saying what is wrong with the statement."""
    for _ in range(READINGS_MAX - 1):
        try:
            return _ask_once(connection, statement, batch_id)
        except Corrupt:  # compaction may have moved a file since the manifest was read: the newest one tells
            continue
    return _ask_once(connection, statement, batch_id)


def _ask_once(connection: Connection, statement: str, batch_id: str | None) -> Answer:
    from raybatch.storage.results import open_sql, query

    with open_sql(connection.home.root, _manifest(connection, batch_id)) as con:
        found = query(con, statement)
        columns = [column.to_pylist() for column in found.columns]
        return Answer(list(found.column_names), list(zip(*columns, strict=True)))


def _manifest(connection: Connection, batch_id: str | None) -> Manifest:
    """From the scheduler while it runs, since nobody else can open its ledger then; else from the ledger."""
    from raybatch.actors.cluster_facts import running
    from raybatch.storage.manifest import Manifest

    known, log = _told(connection) if running(connection.home) else _remembered(connection)
    if batch_id is not None:
        known = tuple(rows for rows in known if rows.batch.batch_id == batch_id)
        log = tuple(entry for entry in log if entry.batch_id == batch_id)
        if not known:
            raise OperatorError(f"there is no batch {batch_id} at {connection.home.root}")
    return Manifest(tuple(_files(connection, rows) for rows in known), log)


def _files(connection: Connection, rows: BatchRows) -> BatchFiles:
    from raybatch.storage.manifest import BatchFiles

    earlier = rows.parts if rows.redrives else ()
    return BatchFiles(rows.batch, _upload(connection, rows), rows.visible(), earlier)


def _upload(connection: Connection, rows: BatchRows) -> Path | None:
    from raybatch.storage.blobs import BlobStore

    try:
        path = BlobStore(connection.home.files).path(rows.batch.input_file_id)
    except NotFound:  # the batch was created with an id that never was one, and failed for it
        return None
    return path if path.is_file() else None


def _told(connection: Connection) -> tuple[tuple[BatchRows, ...], tuple[LogEntry, ...]]:
    import msgspec

    from raybatch.actors.reads import BatchRows
    from raybatch.core.model import LogEntry

    log = msgspec.convert(connection.admin("GET", "/admin/log"), tuple[LogEntry, ...])
    return msgspec.convert(connection.admin("GET", "/admin/manifest"), tuple[BatchRows, ...]), log


def _remembered(connection: Connection) -> tuple[tuple[BatchRows, ...], tuple[LogEntry, ...]]:
    from raybatch.actors import reads
    from raybatch.ledger.durable import DurableMemory

    if not connection.home.ledger.is_dir():
        raise OperatorError(f"no raybatch at {connection.home.root}: start one with `raybatch up`")
    memory = DurableMemory(connection.home.ledger)
    try:
        known = reads.Remembered()
        known.take(memory.load().images())
    finally:
        memory.close()
    return reads.manifest(known, None), reads.whole_log(known)
