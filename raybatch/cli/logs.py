"""`raybatch logs`: which log files there are, the ends of those one asks for, or what happened to a batch."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from raybatch.actors.connection import Connection
from raybatch.cli.show import instant, print_json, size, stdout, table
from raybatch.config import Home
from raybatch.errors import OperatorError

BATCH_PREFIX = "batch_"
SUFFIXES = (".log", ".out", ".err")
#: What WHICH may say beside a part of a name, and the processes it stands for.
ROLES = {
    "api": ("replica",),
    "scheduler": ("scheduler",),
    "engine": ("engine", "engine-child"),
    "supervisor": ("supervisor",),
}


@dataclass(frozen=True)
class LogFile:
    name: str  #: relative to the folder it was found under
    path: Path
    role: str  #: of the process that writes it; empty when that cannot be told


def logs(
    ctx: typer.Context,
    which: Annotated[
        str | None,
        typer.Argument(
            help=f"A batch's id; {', '.join(ROLES)}, or a part of a file's name; without it: a list of files."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, help="So many of each file's last lines.")
    ] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="The list, as JSON.")] = False,
) -> None:
    """Say what happened to a batch; or list the log files of this home and of its Ray session, or print the
    ends of some.
    """
    if which is not None and which.startswith(BATCH_PREFIX):
        _print_batch_log(ctx.ensure_object(Connection), which, as_json)
        return
    home = ctx.ensure_object(Connection).home
    found = sorted(log_files(home), key=lambda file: file.name)
    if which is not None:
        found = [file for file in found if which == file.role or (which not in ROLES and which in file.name)]
    if not found:
        known = f"no log of {home.root} matches '{which}': `raybatch logs` lists them" if which else None
        raise OperatorError(known or f"there are no logs at {home.logs}: nothing was started there")
    if which is None:
        _print_list(found, as_json)
        return
    command = [
        "tail",
        "-v",
        "-n",
        str(lines),
        *(["-F"] if follow else []),
        *(str(file.path) for file in found),
    ]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def _print_batch_log(connection: Connection, batch_id: str, as_json: bool) -> None:
    told = connection.get(f"/v1/batches/{batch_id}/logs")
    if as_json:
        print_json(told)
        return
    rows = [(instant(entry["at"]), entry["kind"], entry["message"]) for entry in told["data"]]
    stdout().print(table(("at", "what", ""), rows))


def log_files(home: Home) -> Iterator[LogFile]:
    """The home's own, and those of the Ray session while one runs."""
    from raybatch.actors.cluster_facts import processes, running

    roles = {process.pid: process.role for process in processes(home)}
    facts = running(home)
    sessions = sorted(Path(facts.ray_temp_dir).glob("session_2*")) if facts else []  # named by their start
    for folder in (home.logs, *(session / "logs" for session in sessions[-1:])):
        for path in folder.rglob("*"):
            if path.suffix in SUFFIXES and path.is_file() and path.stat().st_size:
                name = str(path.relative_to(folder))
                yield LogFile(name, path, role_of(name, roles))


def role_of(name: str, roles: dict[int, str]) -> str:
    """The word of ``ROLES`` for a file: Ray names the writer's pid, Serve and we ourselves what it is."""
    pid = re.search(r"-(\d+)\.\w+$", name)
    process_role = roles.get(int(pid[1])) if pid else None
    for word, process_roles in ROLES.items():
        if process_role in process_roles or Path(name).name.startswith((*process_roles, word)):
            return word
    return ""


def _print_list(found: list[LogFile], as_json: bool) -> None:
    if as_json:
        print_json([{"name": file.name, "role": file.role, "path": str(file.path)} for file in found])
        return
    rows = []
    for file in found:
        stat = file.path.stat()
        rows.append((file.role or None, file.name, size(stat.st_size), instant(stat.st_mtime)))
    stdout().print(table(("which", "name", "size", "written"), rows))
