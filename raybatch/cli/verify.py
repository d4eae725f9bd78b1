"""`raybatch verify`: is every request answered once? Asked of the API alone, by a checker of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raybatch.actors.connection import Connection, Json
from raybatch.cli.show import print_json, printable
from raybatch.config import Home
from raybatch.errors import NotFound, OperatorError, RaybatchError
from raybatch.verify.verdict import Verdict

if TYPE_CHECKING:
    from raybatch.storage.audit import Finding

ENDED: Final = ("completed", "failed", "expired", "cancelled")
PAGE: Final = 100
LOOKS_MAX: Final = 3  #: a batch may be retried while it is looked at


@dataclass(frozen=True)
class Checked:
    batch: Json
    verdict: Verdict | None  #: None: it has not ended, so nothing can be missing yet
    notes: list[str] = field(default_factory=list)


def verify(
    ctx: typer.Context,
    batch_id: Annotated[str | None, typer.Argument(metavar="BATCH")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every batch that has ended.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte the ledger of this machine names, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Counters and faults as JSON.")] = False,
) -> None:
    """Compare the answers of BATCH with its input: every request once, nothing else, and counts that agree.

    Works while raybatch runs. Exits with 1 when anything is lost, duplicated or unexpected.
    """
    if (batch_id is None) != every:
        raise OperatorError("name one batch, or pass --all")
    connection = ctx.ensure_object(Connection)
    batches = [connection.batch(batch_id)] if batch_id else _batches(connection)
    results: list[Checked] = []
    for batch in batches:
        results.append(_checked(connection, batch))
        if not as_json:
            _say(results[-1])
    findings = _audited(connection.home) if deep else ()
    clean = not findings and all(one.verdict is None or one.verdict.clean for one in results)
    if as_json:
        told = [asdict(finding) for finding in findings]
        print_json({"clean": clean, "batches": [_shown(one) for one in results], "files": told})
    else:
        for finding in findings:
            typer.echo(printable(str(finding)))
    if not clean:
        raise typer.Exit(1)


def _batches(connection: Connection) -> Iterator[Json]:
    """Newest first."""
    query: Json = {"limit": PAGE}
    while True:
        page = connection.get("/v1/batches", **query)
        yield from page["data"]
        if not page["has_more"]:
            return
        query["after"] = page["last_id"]


def _checked(connection: Connection, batch: Json) -> Checked:
    for _ in range(LOOKS_MAX):
        found = _check_once(connection, batch)
        again = connection.batch(batch["id"])
        if found.verdict is None or found.verdict.clean or _same_round(batch, again):
            break
        batch = again
    return found


def _same_round(batch: Json, again: Json) -> bool:
    return all(batch[name] == again[name] for name in ("status", "output_file_id", "error_file_id"))


def _check_once(connection: Connection, batch: Json) -> Checked:
    if batch["status"] not in ENDED:
        return Checked(batch, None)
    if batch["status"] == "failed":
        return Checked(batch, _of_failed(batch))
    from raybatch.verify.checker import check

    reading = _Reading(connection, batch)
    try:
        verdict = check(batch, reading.upload(), reading.answers("output"), reading.answers("error"))
    except RaybatchError as error:
        verdict = Verdict()
        verdict.wonder(f"its files cannot be read: {error.message}")
    for wrong in reading.wrong:
        verdict.wonder(wrong)
    return Checked(batch, verdict, reading.notes)


def _of_failed(batch: Json) -> Verdict:
    """It never ran: it has errors and no files."""
    verdict = Verdict()
    if not batch["errors"] or batch["output_file_id"] or batch["error_file_id"]:
        verdict.wonder("a failed batch names its errors, and has no files")
    return verdict


@dataclass
class _Reading:
    """The contents of a batch's files as they stream in, and what is wrong with their sizes."""

    connection: Connection
    batch: Json
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def upload(self) -> Iterator[bytes] | None:
        """None once its owner has deleted it."""
        file = self._file(self.batch["input_file_id"])
        if file is None:
            self.notes.append("the input was deleted: answers are compared with the counts alone")
            return None
        return self._content(file)

    def answers(self, kind: str) -> Iterator[bytes]:
        file_id = self.batch[f"{kind}_file_id"]
        if file_id is None:
            return iter(())
        file = self._file(file_id)
        if file is None:
            self.notes.append(f"the {kind} file was deleted: its rows are read from /results")
            return self._pieces(f"/v1/batches/{self.batch['id']}/results", kind=kind)
        return self._content(file)

    def _file(self, file_id: str) -> Json | None:
        try:
            file: Json = self.connection.get(f"/v1/files/{file_id}")
        except NotFound:
            return None
        return file

    def _content(self, file: Json) -> Iterator[bytes]:
        read_bytes = 0
        for piece in self._pieces(f"/v1/files/{file['id']}/content"):
            read_bytes += len(piece)
            yield piece
        if read_bytes != file["bytes"]:
            self.wrong.append(f"{file['id']} says it has {file['bytes']} bytes, and has {read_bytes}")

    def _pieces(self, path: str, **query: str) -> Iterator[bytes]:
        with self.connection.download(path, **query) as pieces:
            yield from pieces


def _audited(home: Home) -> tuple[Finding, ...]:
    """What is wrong with this home's files, twice in a row: compaction may move some meanwhile."""
    from raybatch.cli.rebuild import checked
    from raybatch.ledger.rebuild import peek

    if not home.ledger.is_dir():
        raise OperatorError(f"no raybatch at {home.root}: run --deep on the machine that has the files")
    found = checked(home, peek(home.ledger)[1])
    if not found:
        return found
    still = checked(home, peek(home.ledger)[1])
    return tuple(finding for finding in still if finding in found)


def _say(one: Checked) -> None:
    batch, verdict = one.batch, one.verdict
    name = f"{batch['id']} {batch['status']}"
    total = batch["request_counts"]["total"]
    if verdict is None:
        typer.echo(f"{name}: not ended yet, not checked")
    elif verdict.clean:
        typer.echo(f"{name}: {total:,} requests, nothing lost, nothing twice, nothing unexpected")
    else:
        counters = (
            f"{verdict.lost:,} lost, {verdict.duplicated:,} duplicated, {verdict.unexpected:,} unexpected"
        )
        typer.echo(f"{name}: {total:,} requests, {counters}")
    for line in (*one.notes, *(verdict.faults if verdict else ())):
        typer.echo(f"  {printable(line)}")


def _shown(one: Checked) -> Json:
    verdict = {"checked": False} if one.verdict is None else {"checked": True, **asdict(one.verdict)}
    return {
        "id": one.batch["id"],
        "status": one.batch["status"],
        "total": one.batch["request_counts"]["total"],
        **verdict,
        "notes": one.notes,
    }
