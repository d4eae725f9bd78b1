"""`raybatch backup` and `restore`: what a home remembers and the files that this names, somewhere else.

A backup is laid out like a home: a journal of one snapshot, and files that never change once written. So it
can be taken while raybatch runs, and a second one into the same directory copies only what is new. It holds
no secrets of `run`, no models, no logs.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raybatch.actors.connection import Connection
from raybatch.cli.rebuild import checked, report, stopped
from raybatch.config import Home
from raybatch.errors import InUse, OperatorError

if TYPE_CHECKING:
    from raybatch.core.state import State

    Remembered = tuple[int, State]

MARK: Final = "backup.json"  #: says of a directory that it is a backup, and of which home
LOOKS_MAX: Final = 10  #: compaction may move files between the look at the journal and the copy
FOLDERS: Final = ("files", "batches", "results")


def backup(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New, or an earlier backup of this home.")],
) -> None:
    """Copy what raybatch remembers, uploads and results to DIR, while it runs, too; then read it all back."""
    home, target = ctx.ensure_object(Connection).home, Home(directory.resolve())
    if not home.ledger.is_dir():
        raise OperatorError(f"no raybatch at {home.root}: start one with `raybatch up`")
    _prepare(home, target)
    seq, state = _copy(home, target, lambda: _remembered(home))
    report(checked(target, state), f"{target.root}: {len(state.batches):,} batches, as of commit {seq}")


def restore(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A backup.")],
) -> None:
    """Copy a backup into this home, which must be empty, and read it all back. `raybatch up` then goes on."""
    from raybatch.ledger.rebuild import peek

    home, source = ctx.ensure_object(Connection).home, Home(directory.resolve())
    _check_backup(source)
    for folder in ("ledger", *FOLDERS):
        if any((home.root / folder).glob("*")):
            raise OperatorError(f"{home.root / folder} is not empty: name an empty home with --home")
    home.make()
    with stopped(home):
        seq, state = _copy(source, home, lambda: peek(source.ledger))
        report(checked(home, state), f"{home.root}: {len(state.batches):,} batches, as of commit {seq}")


def _prepare(home: Home, target: Home) -> None:
    """Raises OperatorError for a directory that holds anything but a backup of this home."""
    root = target.root
    if root.is_relative_to(home.root) or home.root.is_relative_to(root):
        raise OperatorError(f"{root} and {home.root} lie in each other: a backup belongs somewhere else")
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(root.iterdir()):
            of = _check_backup(target)["home"]
            if of != str(home.root):
                raise OperatorError(f"{root} is a backup of {of}, not of {home.root}")
        (root / MARK).write_text(json.dumps({"home": str(home.root), "begun_at": time.time()}))
    except OSError as error:
        raise OperatorError(f"cannot write {root}: {error.strerror or error}") from None


def _check_backup(source: Home) -> dict[str, Any]:
    try:
        mark: dict[str, Any] = json.loads((source.root / MARK).read_bytes())
    except (OSError, ValueError):
        raise OperatorError(f"{source.root} is not a backup: `raybatch backup DIR` makes one") from None
    return mark


def _remembered(home: Home) -> Remembered:
    """From the ledger's own files; from the journal alone while a scheduler has them open."""
    from raybatch.ledger.durable import DurableMemory
    from raybatch.ledger.rebuild import peek

    try:
        memory = DurableMemory(home.ledger)
    except InUse:
        return peek(home.ledger)
    with closing(memory):
        state = memory.load()
        return memory.seq, state


def _copy(source: Home, target: Home, remembered: Callable[[], Remembered]) -> Remembered:
    """Files first, then the journal that names them: until that is there, the target is as it was."""
    seq, state = _with_files(source, target, remembered)
    _write_journal(target, seq, state)
    if source.settings_path.exists():
        shutil.copy2(source.settings_path, target.settings_path)
    wanted = set(_named(state))
    for folder in FOLDERS:
        for path in (target.root / folder).rglob("*"):
            if path.is_file() and str(path.relative_to(target.root)) not in wanted:
                path.unlink()
    return seq, state


def _with_files(source: Home, target: Home, remembered: Callable[[], Remembered]) -> Remembered:
    """A state all of whose files were copied, but for those that are missing for good."""
    absent: list[str] = []
    for _ in range(LOOKS_MAX):
        seq, state = remembered()
        before, absent = absent, [path for path in _named(state) if not _copied(source, target, path)]
        if absent == before:  # nothing is, or the same as a look ago: no compaction moved these
            break
    return seq, state


def _named(state: State) -> Iterator[str]:
    """Paths relative to the home. The index of a batch in intake is not finished, and is made again."""
    from raybatch.storage.audit import uploads

    yield from (f"files/{file.file_id}" for file in uploads(state.files.values()))
    for batch_id, batch in state.batches.items():
        if batch.total:
            yield f"batches/{batch_id}.index.parquet"
        yield from (part.path for part in state.parts.get(batch_id, {}).values())


def _copied(source: Home, target: Home, path: str) -> bool:
    """Whether the target has it now. What it had before is kept: files never change."""
    from raybatch.storage.atomic import atomic_file

    origin, copy = source.root / path, target.root / path
    if copy.exists() and (not origin.exists() or copy.stat().st_size == origin.stat().st_size):
        return True
    copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with atomic_file(copy) as temporary:
            shutil.copyfile(origin, temporary)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OperatorError(f"cannot copy {origin} to {copy}: {error.strerror or error}") from None
    return True


def _write_journal(target: Home, seq: int, state: State) -> None:
    from raybatch.ledger.durable import JOURNAL_NAME
    from raybatch.ledger.segment import segments, write_segment

    journal = target.ledger / JOURNAL_NAME
    journal.mkdir(parents=True, exist_ok=True, mode=0o700)
    newest = write_segment(journal, seq, state.images(), time.time())
    for path in segments(journal):
        if path != newest:
            path.unlink()
