"""Every TCP port a running raybatch listens on, and what a stranger is told there: ``python -m jobs.ports``.

A stranger has no token. Each port is really asked: over HTTP for a page, else over gRPC for a call that
changes nothing; and drivers, Ray clients and jobs are really sent without the token. Exits with 1 when a port
is not known or anything but the API and the metrics answers a stranger.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import grpc
import psutil
import typer
from rich.console import Console
from rich.table import Table

from jobs.api import clean_up_on_sigterm
from jobs.strangers import Attempt, attempts_of_strangers
from raybatch.actors.cluster_facts import processes, running
from raybatch.actors.supervisor import METRICS_VARIABLES
from raybatch.config import Home
from raybatch.errors import OperatorError

ANSWER_MAX_S: Final = 5.0
API: Final = "raybatch API"
METRICS: Final = "Prometheus metrics"
UNKNOWN: Final = "unknown"
OPEN_TO_ALL: Final = frozenset({API, METRICS})  #: the API has guards of its own; metrics name no prompt

#: a harmless call of each gRPC service, by which a port shows what it is
SERVICES: Final = {
    "GCS": "/ray.rpc.NodeInfoGcsService/CheckAlive",
    "raylet": "/ray.rpc.NodeManagerService/GetSystemConfig",
    "object manager": "/ray.rpc.ObjectManagerService/Pull",
    "core worker": "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "Ray Client": "/ray.rpc.RayletDriver/ClusterInfo",
    "dashboard agent, gRPC": "/ray.rpc.ReporterService/GetTraceback",
    "Serve replica": "/ray.serve.ASGIService/HandleRequest",
}
#: options of `ray start` that name an HTTP port
HTTP_OPTIONS: Final = {
    "--dashboard-port": "dashboard and job API",
    "--dashboard-agent-listen-port": "dashboard agent, HTTP",
    "--runtime-env-agent-port": "runtime environment agent",
    "--metrics-export-port": METRICS,
}


@dataclass(frozen=True)
class Listener:
    port: int
    addresses: tuple[str, ...]
    role: str
    what: str
    stranger: str  #: what somebody without the token is told
    refuses: bool

    @property
    def loopback_only(self) -> bool:
        return all(_address(address).is_loopback for address in self.addresses)

    @property
    def sound(self) -> bool:
        return self.what != UNKNOWN and (self.refuses or self.what in OPEN_TO_ALL)


def main(
    home: Annotated[str | None, typer.Option(help="RAYBATCH_HOME, else ~/.raybatch.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write it all there, too.")] = None,
) -> None:
    """Who listens where, and what a stranger is told."""
    clean_up_on_sigterm()
    found = Home.find(home)
    listeners, attempts = inventory(found), attempts_of_strangers(found)
    Console().print(_ports_table(listeners), _attempts_table(attempts))
    if json_path is not None:
        told = {"ports": [asdict(x) for x in listeners], "attempts": [asdict(x) for x in attempts]}
        json_path.write_text(json.dumps(told, indent=2))
    if not all(listener.sound for listener in listeners) or any(attempt.succeeded for attempt in attempts):
        raise typer.Exit(1)


def inventory(home: Home) -> list[Listener]:
    """By port. Raises OperatorError when this home does not run."""
    facts = running(home)
    if facts is None:
        raise OperatorError(f"no raybatch runs at {home.root}: start one with `raybatch up`")
    own = {process.pid: process.role for process in processes(home)}
    http_ports = _http_ports(own) | {home.load().api.port: API}
    addresses: dict[int, list[str]] = {}
    roles: dict[int, str] = {}
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.pid in own:
            addresses.setdefault(connection.laddr.port, []).append(connection.laddr.ip)
            roles[connection.laddr.port] = own[connection.pid]
    return [_listener(port, addresses[port], roles[port], http_ports) for port in sorted(addresses)]


def _http_ports(pids: Iterable[int]) -> dict[int, str]:
    """What the head was told to listen on, by options and by variables."""
    ports: dict[int, str] = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            environment = psutil.Process(pid).environ()
            ports |= {int(environment[name]): METRICS for name in METRICS_VARIABLES if name in environment}
            for word in psutil.Process(pid).cmdline():
                option, _, value = word.partition("=")
                if option in HTTP_OPTIONS and value.isdigit():
                    ports[int(value)] = HTTP_OPTIONS[option]
    return ports


def _listener(port: int, addresses: list[str], role: str, http_ports: Mapping[int, str]) -> Listener:
    at = f"{_reachable(addresses[0])}:{port}"
    status = _http_status(at)
    if status is not None:
        told, refuses = f"HTTP {status}", status in (401, 403)
        return Listener(port, tuple(sorted(addresses)), role, http_ports.get(port, UNKNOWN), told, refuses)
    with grpc.insecure_channel(at) as channel:
        answers = {what: _grpc_answer(channel, method) for what, method in SERVICES.items()}
    offered = {what: code for what, code in answers.items() if code is not grpc.StatusCode.UNIMPLEMENTED}
    what, code = next(iter(offered.items())) if len(offered) == 1 else (UNKNOWN, None)
    refuses = code is grpc.StatusCode.UNAUTHENTICATED
    return Listener(
        port, tuple(sorted(addresses)), role, what, f"gRPC {code.name if code else offered}", refuses
    )


def _http_status(at: str) -> int | None:
    """Of a page that is not there, as a stranger; None where nobody speaks HTTP."""
    try:
        with urllib.request.urlopen(f"http://{at}/nodes", timeout=ANSWER_MAX_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        return refusal.code
    except (OSError, http.client.HTTPException):
        return None


def _grpc_answer(channel: grpc.Channel, method: str) -> grpc.StatusCode:
    try:
        channel.unary_unary(method)(b"", timeout=ANSWER_MAX_S)
    except grpc.RpcError as refusal:
        return refusal.code()
    return grpc.StatusCode.OK


def _reachable(address: str) -> str:
    """Where one connects to who listens there."""
    found = _address(address)
    return "127.0.0.1" if found.is_unspecified else str(found)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IPv4 address told as IPv6 is the IPv4 address."""
    found = ipaddress.ip_address(text)
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def _ports_table(listeners: list[Listener]) -> Table:
    table = Table("port", "listens on", "process", "what it is", "a stranger is told")
    for found in listeners:
        where = ", ".join(str(_address(address)) for address in found.addresses)
        table.add_row(str(found.port), where, found.role, found.what, found.stranger)
    return table


def _attempts_table(attempts: list[Attempt]) -> Table:
    table = Table("who tries", "with", "comes in", "and is told")
    for tried in attempts:
        table.add_row(tried.what, tried.who, "yes" if tried.succeeded else "no", tried.last_words)
    return table


if __name__ == "__main__":
    typer.run(main)
