"""`raybatch rebuild`: the ledger from the journal, checked against the results. Loses nothing unasked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from raybatch.actors.connection import Connection
from raybatch.cli.show import stderr
from raybatch.config import Home
from raybatch.errors import OperatorError

if TYPE_CHECKING:
    from raybatch.core.state import State
    from raybatch.storage.audit import Finding


def rebuild(
    ctx: typer.Context,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on although something remembered is lost for good.")
    ] = False,
) -> None:
    """Make the ledger again from the journal, and check every result file against it. Stop raybatch first."""
    from raybatch.ledger.rebuild import rebuild as write_down
    from raybatch.ledger.rebuild import recover

    home, console = ctx.ensure_object(Connection).home, stderr()
    with stopped(home):
        found = recover(home.ledger)
        for damage in found.damage:
            console.print(f"damaged: {damage}", soft_wrap=True)
        console.print(f"made from {found.source}, up to commit {found.seq}", soft_wrap=True)
        if found.lost and not accept_loss:
            raise OperatorError(
                f"this would lose {found.lost}. Rows that were finished since then run again, batches made "
                f"since then are gone. Restore a newer copy of {home.ledger}, or run"
                " `raybatch rebuild --accept-loss`. Nothing was changed"
            )
        state = write_down(home.ledger, found)
        if found.lost:
            console.print(f"lost: {found.lost}", soft_wrap=True)
        report(checked(home, state), f"{len(state.batches):,} batches, every file checked")


@contextmanager
def stopped(home: Home) -> Iterator[None]:
    """Nothing of this home runs, nor starts, until the block ends. Raises OperatorError when it does run."""
    from raybatch.actors.cluster_facts import try_lock

    if not home.ledger.is_dir():
        raise OperatorError(f"no raybatch at {home.root}: start one with `raybatch up`")
    with try_lock(home) as lock:
        if lock is None:
            raise OperatorError(f"{home.root} is running: `raybatch down` first")
        yield


def checked(home: Home, state: State) -> tuple[Finding, ...]:
    """What is wrong with the files that the state names, every byte read."""
    from raybatch.storage.audit import audit, named_by

    named = named_by(state)
    return audit(home.root, named.manifest, deep=True, uploads=named.uploads)


def report(findings: tuple[Finding, ...], done: str) -> None:
    """Say what was done. Raises OperatorError when there are findings, after one line for each."""
    console = stderr()
    console.print(done, soft_wrap=True)
    for finding in findings:
        console.print(str(finding), style="red", soft_wrap=True)
    if findings:
        raise OperatorError(f"{len(findings)} files are missing or damaged; their rows are never served")
