"""Let the engines come to rest: ``python -m jobs.drain``, for `ray job submit`.

A drained raybatch starts no new row and takes no new batch, and everything finished is on disk. It stays so
until ``--resume``, or until its scheduler starts again.
"""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from jobs.api import HomeOption, Lines, command, reach, say
from raybatch.actors.connection import Connection
from raybatch.errors import OperatorError

LOOK_S: Final = 0.2
DRAINING: Final = ("draining", "disk_full")  #: a full disk is told instead of anything else


def main(
    timeout_s: Annotated[float, typer.Option(min=0, help="Wait at most so long for the engines.")] = 300.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on instead, and wait for nothing.")] = False,
    home: HomeOption = None,
) -> None:
    """Start no new row, and wait until engines have committed what they hold; exit status 1 when time is up.

    Works on the machine of the home, whose admin token it reads. A drain whose time is up still drains.
    """
    connection = reach(home)
    connection.admin("POST", "/admin/drain", {"on": not resume})
    if resume:
        say("resumed: engines get rows again")
        return
    if not wait_drained(connection, timeout_s):
        say(f"after {timeout_s:g} s engines still hold rows; wait again, or go on with --resume")
        raise typer.Exit(1)
    say("drained: no engine holds a row, and none gets one until --resume")


def wait_drained(connection: Connection, timeout_s: float) -> bool:
    """True once no engine holds a row that is not committed; a lost engine holds none.

    Raises OperatorError when it stopped draining meanwhile.
    """
    deadline_mono = time.monotonic() + timeout_s
    lines = Lines()
    while True:
        overview = connection.admin("GET", "/admin/overview")["overview"]
        if overview["state"] not in DRAINING:
            raise OperatorError("it drains no longer: somebody resumed it, or its scheduler started again")
        held_rows = sum(engine["held_rows"] for engine in overview["engines"] if not engine["lost"])
        if held_rows == 0:
            return True
        if time.monotonic() > deadline_mono:
            return False
        lines.say("held", f"draining: engines hold {held_rows:,} rows")
        time.sleep(LOOK_S)


if __name__ == "__main__":
    command(main)
