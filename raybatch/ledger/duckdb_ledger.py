"""The ledger in one DuckDB file: one connection, one thread, one transaction per tick.

Rows are chunk-sized, never request-sized, and written set-wise: delete the touched keys, insert their images.
The cost is per statement and per bound value (the driver looks for pandas once for each), so a tick pays a
handful of statements with one JSON document each, however many chunks it moved. It refuses to be shared:
while the scheduler has it open no other process can.
"""

from __future__ import annotations

import contextlib
import errno
import json
from pathlib import Path
from typing import Final

import duckdb

from raybatch.core.state import Image
from raybatch.errors import Corrupt, DiskFull, InUse
from raybatch.ledger.contract import Remembered, coalesce
from raybatch.ledger.rows import TABLES, Table

SCHEMA_VERSION: Final = 2


class DuckDBLedger:
    def __init__(self, path: Path) -> None:
        """Opens or creates the file. Raises Corrupt when it is not a ledger of this version."""
        self._path = path
        self._con = self._open()
        self._seq = self._applied_seq()

    def load(self) -> Remembered:
        images: list[Image] = []
        for table in TABLES.values():
            live = " WHERE state <> 'completed'" if table.name == "chunks" else ""
            order = {"batches": "created_at, rowid", "files": "created_at, rowid"}.get(table.name, table.key)
            columns = ", ".join(f'"{name}"' for name, _ in table.columns)
            rows = self._con.execute(f"SELECT {columns} FROM {table.name}{live} ORDER BY {order}").fetchall()
            names = [name for name, _ in table.columns]
            images.extend(table.image_of(dict(zip(names, row, strict=True))) for row in rows)
        return Remembered(self._seq, tuple(images))

    def commit(self, seq: int, images: tuple[Image, ...]) -> None:
        if seq <= self._seq:
            return
        try:
            self._con.execute("BEGIN TRANSACTION")
            for name, by_key in coalesce(images).items():
                self._put(TABLES[name], by_key)
            self._con.execute("UPDATE applied SET seq = ?", [seq])
            self._con.execute("COMMIT")
            self._seq = seq
        except duckdb.Error as error:
            with contextlib.suppress(duckdb.Error):
                self._con.execute("ROLLBACK")
            if _is_disk_full(error):
                raise DiskFull(
                    f"no space left for the ledger at {self._path}: free some disk space"
                ) from error
            raise

    def reopen(self) -> None:
        with contextlib.suppress(duckdb.Error):
            self._con.close()
        self._con = self._open()
        self._seq = self._applied_seq()

    def close(self) -> None:
        self._con.close()

    def _open(self) -> duckdb.DuckDBPyConnection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            con = duckdb.connect(str(self._path), config={"threads": 1, "memory_limit": "512MB"})
            con.execute("PRAGMA disable_optimizer")  # planning costs more than these statements
            con.execute("CREATE TABLE IF NOT EXISTS applied (seq BIGINT, schema_version INTEGER)")
            for table in TABLES.values():
                columns = ", ".join(f'"{name}" {kind}' for name, kind in table.columns)
                con.execute(f"CREATE TABLE IF NOT EXISTS {table.name} ({columns})")
            if con.execute("SELECT count(*) FROM applied").fetchone() == (0,):
                con.execute("INSERT INTO applied VALUES (0, ?)", [SCHEMA_VERSION])
            found = con.execute("SELECT schema_version FROM applied").fetchall()
        except duckdb.Error as error:
            if _is_disk_full(error):
                raise DiskFull(
                    f"no space left for the ledger at {self._path}: free some disk space"
                ) from error
            if "Could not set lock" in str(error):
                raise InUse(f"the ledger {self._path} is open in another process: {error}") from error
            raise Corrupt(f"the ledger {self._path} cannot be read: {error}") from error
        if found != [(SCHEMA_VERSION,)]:
            con.close()
            raise Corrupt(f"the ledger {self._path} has schema {found}, this version reads {SCHEMA_VERSION}")
        return con

    def _applied_seq(self) -> int:
        row = self._con.execute("SELECT seq FROM applied").fetchone()
        assert row is not None
        return int(row[0])

    def _put(self, table: Table, by_key: dict[str | int, Image]) -> None:
        keys = f"""SELECT unnest(from_json(?, '["{table.key_type}"]'))"""
        self._con.execute(
            f"DELETE FROM {table.name} WHERE {table.key} IN ({keys})", [json.dumps(list(by_key))]
        )
        names = [name for name, _ in table.columns]
        images = [image for image in by_key.values() if image.entity is not None]
        if images:
            rows = [dict(zip(names, table.row_of(image), strict=True)) for image in images]
            shape = json.dumps([dict(table.columns)])
            structs = f"SELECT unnest(from_json(?, '{shape}')) AS image"
            self._con.execute(
                f"INSERT INTO {table.name} SELECT unnest(image) FROM ({structs})", [json.dumps(rows)]
            )


def _is_disk_full(error: duckdb.Error) -> bool:
    return "No space left" in str(error) or f"errno {errno.ENOSPC}" in str(error)
