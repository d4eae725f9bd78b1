"""A Redis and a PostgreSQL of one's own: on a free port or a socket, in a directory that goes with them.

They are the machine's programs, never its services, and are killed and started again on the same directory.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jobs.echo_cluster import until
from raybatch.actors.ports import free_ports
from raybatch.errors import OperatorError

START_MAX_S: Final = 60.0
ASK_MAX_S: Final = 30.0
DEBIAN_POSTGRES: Final = "/usr/lib/postgresql"
UNPRIVILEGED: Final = (
    "postgres",
    "nobody",
)  #: the first one that is there: PostgreSQL refuses to run as root


class Kept:
    """A process that is started again whenever it has ended, as a service manager does."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        folder: Path | None = None,
    ) -> None:
        """``log``: where it writes to; ``user``: who it is; ``folder``: where it runs."""
        self._command, self._log, self._user, self._folder = list(command), log, user, folder
        self._environment = dict(os.environ | dict(environment or {}))
        self._child = self._start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def keep(self) -> None:
        if self._child.poll() is not None:
            self._end_group()
            self._child = self._start()

    def close(self) -> None:
        self._end_group()
        self._child.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
                **_as_user(self._user),
            )

    def _end_group(self) -> None:
        """What a killed process leaves behind goes with it, as in a service manager's group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)


class Redis:
    """Every write is fsynced in the append-only file before it is answered."""

    def __init__(self, folder: Path) -> None:
        server = _program("redis-server", "redis-server")
        self._client = _program("redis-cli", "redis-tools")
        (self._port,) = free_ports(1)
        folder.mkdir()
        told = {
            "port": self._port,
            "bind": "127.0.0.1",
            "dir": folder,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        options = [word for name, value in told.items() for word in (f"--{name}", str(value))]
        self.process = Kept([server, *options], folder / "log")
        until(lambda: self.ask(0, "PING") == "PONG", START_MAX_S, "Redis does not answer")

    def url(self, database: int) -> str:
        return f"redis://127.0.0.1:{self._port}/{database}"

    def ask(self, database: int, *words: str) -> str | None:
        """What it answers, a line for each value; None while it does not."""
        return _asked([self._client, "-p", str(self._port), "-n", str(database), "--raw", *words])


class Postgres:
    """With its own settings, which are safe: every commit is fsynced before it is answered."""

    def __init__(self, folder: Path) -> None:
        initdb, server = _postgres("initdb"), _postgres("postgres")
        self._client = _program("psql", "postgresql-client")
        user = _unprivileged()
        folder.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(folder, user)
        cluster = folder / "cluster"
        made = [initdb, "--auth=trust", "--username=queues", "--encoding=UTF8", "--no-locale", str(cluster)]
        subprocess.run(made, check=True, capture_output=True, timeout=START_MAX_S, **_as_user(user))
        self.database = f"host={folder} user=queues dbname=postgres"
        options = ["-D", str(cluster), "-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
        self.process = Kept([server, *options], folder.with_suffix(".log"), user=user)
        until(lambda: self.ask("SELECT 1") == "1", START_MAX_S, "PostgreSQL does not answer")

    def ask(self, statement: str) -> str | None:
        """Its rows, a line each; None while it does not answer."""
        return _asked([self._client, self.database, "-XAtq", "-c", statement])


def _asked(command: list[str]) -> str | None:
    asked = subprocess.run(command, capture_output=True, text=True, timeout=ASK_MAX_S, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else None


def _postgres(name: str) -> str:
    """Debian keeps the server's programs beside the path, by version: the newest."""
    found = sorted(Path(DEBIAN_POSTGRES).glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(found[-1]) if found else _program(name, "postgresql")


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise OperatorError(f"{name} is not installed: on Debian, `apt-get install {package}`")
    return found


def _unprivileged() -> str | None:
    """Whom to become, when this is root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in UNPRIVILEGED if name in names)


def _as_user(name: str | None) -> dict[str, Any]:
    return {} if name is None else {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}
