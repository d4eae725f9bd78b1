"""`raybatch du`: what takes how much of the disk, and what would free some of it. It removes nothing."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raybatch.actors.connection import Connection
from raybatch.cli.show import print_json, size, stdout, table
from raybatch.config import Home
from raybatch.errors import OperatorError

if TYPE_CHECKING:
    from raybatch.core.state import State

SHOWN_BATCHES_MAX: Final = 20
#: by the directory under the home; runs lie among the parts, the journal in the ledger's
FOLDERS: Final = {"files": "uploads", "batches": "indexes", "results": "parts"}
FOLDERS_AS_NAMED: Final = ("ledger", "models", "logs")
KINDS: Final = (
    *("uploads", "indexes", "parts", "runs", "journal", "ledger"),
    *("models", "logs", "orphans", "under way", "other"),
)


@dataclass(frozen=True, slots=True)
class BatchUse:
    batch_id: str
    status: str
    results_bytes: int
    index_bytes: int
    upload_bytes: int  #: of its input, which other batches may share
    freed_bytes: int  #: by deleting it


@dataclass(frozen=True, slots=True)
class Use:
    total_bytes: int
    kinds: dict[str, int]
    batches: tuple[BatchUse, ...]  #: the largest first
    uploads_unused_bytes: int  #: of uploads that no batch refers to


def du(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="All of it, in bytes.")] = False,
) -> None:
    """Show what takes how much of the disk: by kind and by batch, and what could be freed how."""
    from raybatch.ledger.rebuild import peek

    home = ctx.ensure_object(Connection).home
    if not home.ledger.is_dir():
        raise OperatorError(f"no raybatch at {home.root}: start one with `raybatch up`")
    used = use(home, peek(home.ledger)[1], time.time())
    if as_json:
        print_json(asdict(used))
        return
    console = stdout()
    console.print(f"{home.root}: {size(used.total_bytes)}", soft_wrap=True)
    kinds = [(kind, size(size_bytes)) for kind, size_bytes in used.kinds.items() if size_bytes]
    console.print(table(("kind", "size"), kinds))
    if used.batches:
        columns = ("batch", "status", "results", "index", "input", "freed by deleting")
        console.print(table(columns, [_row(batch) for batch in used.batches[:SHOWN_BATCHES_MAX]]))
    for line in _advice(used):
        console.print(line, soft_wrap=True)


def use(home: Home, state: State, now: float) -> Use:
    """Of every byte under the home, by the files that ``state`` names."""
    from raybatch.actors.reads import Remembered
    from raybatch.actors.sweep import kept, orphans

    known = Remembered()
    known.take(state.images())
    swept = {str(path.relative_to(home.root)) for path in orphans(home, kept(known), now)}
    levels = {part.path: part.level for parts in state.parts.values() for part in parts.values()}
    named = {*levels, *(f"files/{file_id}" for file_id in kept(known).file_ids)}
    sizes = dict(_sizes(home.root))
    kinds: Counter[str] = Counter()
    for path, size_bytes in sizes.items():
        kinds["orphans" if path in swept else _kind(path, levels, named)] += size_bytes
    batches = sorted(_batches(home, state, sizes), key=lambda batch: -batch.results_bytes)
    inputs = {batch.input_file_id for batch in state.batches.values()}
    unused = (
        file.size_bytes
        for file in state.files.values()
        if file.batch_id is None and file.file_id not in inputs
    )
    return Use(kinds.total(), {kind: kinds[kind] for kind in KINDS}, tuple(batches), sum(unused))


def _sizes(root: Path) -> Iterator[tuple[str, int]]:
    """Files under the root; what a link points to is counted where it lies."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                yield str(path.relative_to(root)), path.lstat().st_size
            except FileNotFoundError:  # compacted away, or a log that was turned over
                continue


def _kind(path: str, levels: dict[str, int], named: set[str]) -> str:
    folder = path.partition("/")[0]
    if path.startswith("ledger/journal/"):
        return "journal"
    if folder in FOLDERS_AS_NAMED:
        return folder
    if folder in ("files", "results", "uploads") and path not in named:
        return "under way"  # on its way to being remembered, or to being removed
    if levels.get(path):
        return "runs"
    return FOLDERS.get(folder, "other")


def _batches(home: Home, state: State, sizes: dict[str, int]) -> Iterator[BatchUse]:
    readers = Counter(batch.input_file_id for batch in state.batches.values())
    for batch in state.batches.values():
        results_bytes = sum(part.size_bytes for part in state.parts.get(batch.batch_id, {}).values())
        index_bytes = sizes.get(str(home.index_path(batch.batch_id).relative_to(home.root)), 0)
        upload = state.files.get(batch.input_file_id)
        goes_along = upload is not None and upload.deleted and readers[batch.input_file_id] == 1
        upload_bytes = upload.size_bytes if upload is not None else 0
        freed_bytes = results_bytes + index_bytes + (upload_bytes if goes_along else 0)
        yield BatchUse(
            batch.batch_id,
            batch.status.value,
            results_bytes,
            index_bytes,
            upload_bytes,
            0 if batch.active else freed_bytes,
        )


def _row(batch: BatchUse) -> tuple[str, ...]:
    sizes = (batch.results_bytes, batch.index_bytes, batch.upload_bytes, batch.freed_bytes)
    return (batch.batch_id, batch.status, *map(size, sizes))


def _advice(used: Use) -> Iterator[str]:
    freed_bytes = sum(batch.freed_bytes for batch in used.batches)
    if freed_bytes:
        how = "`raybatch delete BATCH`, or the setting scheduler.keep_batches_days"
        yield f"{size(freed_bytes)}: ended batches, with {how}"
    if used.uploads_unused_bytes:
        yield f"{size(used.uploads_unused_bytes)}: uploads that no batch reads, with DELETE /v1/files/FILE"
    if used.kinds["orphans"]:
        yield f"{size(used.kinds['orphans'])}: orphans, by the next sweep, daily and at each start"
