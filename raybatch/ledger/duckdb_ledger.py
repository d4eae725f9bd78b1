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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec

from raybatch.core.state import Image
from raybatch.errors import Corrupt, DiskFull, InUse
from raybatch.ledger.contract import SCHEMA_VERSION, Remembered, coalesce
from raybatch.ledger.rows import TABLES, Table

#: Of a new file, the smallest block there is: every column of every table holds whole blocks in memory, of
#: 256 KiB each by default. A file keeps what it was made with.
BLOCK_BYTES: Final = 16_384
CONFIG: Final[dict[str, Any]] = {
    "threads": 1,
    "memory_limit": "512MB",
    "default_block_size": str(BLOCK_BYTES),
}


class DuckDBLedger:
    def __init__(self, path: Path) -> None:
        """Opens or creates the file. Raises Corrupt when it cannot be read."""
        self._path = path
        self._con, self._seq, self.version = self._open()

    @property
    def seq(self) -> int:
        """Of the last commit; known in every version."""
        return self._seq

    def load(self) -> Remembered:
        """Reads every block. Raises Corrupt when one of them does not match its checksum."""
        assert self.version == SCHEMA_VERSION, "an older version is made again, not loaded"
        images: list[Image] = []
        try:
            for table in TABLES.values():
                self._con.execute(f"SELECT bit_xor(hash({table.name})) FROM {table.name}").fetchall()
                images.extend(self._images(table))
        except (duckdb.Error, msgspec.MsgspecError, ValueError, TypeError) as error:
            raise Corrupt(f"the ledger {self._path} cannot be read: {error}") from error
        return Remembered(self._seq, tuple(images))

    def commit(self, seq: int, images: tuple[Image, ...]) -> None:
        if seq <= self._seq:
            return
        try:
            self._con.execute("BEGIN TRANSACTION")
            for name, by_key in coalesce(images).items():
                self._put(TABLES[name], by_key)
                if name == "batches":
                    self._forget_chunks([key for key, image in by_key.items() if image.entity is None])
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
            raise Corrupt(f"the ledger {self._path} could not be written: {error}") from error

    def reopen(self) -> None:
        with contextlib.suppress(duckdb.Error):
            self._con.close()
        self._con, self._seq, self.version = self._open()

    def close(self) -> None:
        self._con.close()

    def _open(self) -> tuple[duckdb.DuckDBPyConnection, int, int]:
        """Connection, last commit, schema version."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            con = duckdb.connect(str(self._path), config=CONFIG)
            con.execute("PRAGMA disable_optimizer")  # planning costs more than these statements
            if con.execute("SHOW TABLES").fetchall() == []:
                _create(con)
            found = con.execute("SELECT seq, schema_version FROM applied").fetchall()
        except duckdb.Error as error:
            if _is_disk_full(error):
                raise DiskFull(
                    f"no space left for the ledger at {self._path}: free some disk space"
                ) from error
            if "Could not set lock" in str(error):
                raise InUse(f"the ledger {self._path} is open in another process: {error}") from error
            raise Corrupt(f"the ledger {self._path} cannot be read: {error}") from error
        if len(found) != 1:
            con.close()
            raise Corrupt(f"the ledger {self._path} names {len(found)} last commits, expected one")
        return con, int(found[0][0]), int(found[0][1])

    def _images(self, table: Table) -> Iterator[Image]:
        live = " WHERE state <> 'completed'" if table.name == "chunks" else ""
        order = {"batches": "place", "files": "created_at, rowid"}.get(table.name, table.key)
        names = [name for name, _ in table.columns]
        columns = ", ".join(f'"{name}"' for name in names)
        rows = self._con.execute(f"SELECT {columns} FROM {table.name}{live} ORDER BY {order}").fetchall()
        return (table.image_of(dict(zip(names, row, strict=True))) for row in rows)

    def _forget_chunks(self, batch_ids: list[str | int]) -> None:
        """Completed chunks stay in the table, which alone remembers them, until their batch goes."""
        if batch_ids:
            keys = "SELECT unnest(from_json(?, '[\"VARCHAR\"]'))"
            self._con.execute(f"DELETE FROM chunks WHERE batch_id IN ({keys})", [json.dumps(batch_ids)])

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


def _create(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("BEGIN TRANSACTION")
    for table in TABLES.values():
        columns = ", ".join(f'"{name}" {kind}' for name, kind in table.columns)
        con.execute(f"CREATE TABLE {table.name} ({columns})")
    con.execute("CREATE TABLE applied (seq BIGINT, schema_version INTEGER)")
    con.execute("INSERT INTO applied VALUES (0, ?)", [SCHEMA_VERSION])
    con.execute("COMMIT")


def _is_disk_full(error: duckdb.Error) -> bool:
    return "No space left" in str(error) or f"errno {errno.ENOSPC}" in str(error)
