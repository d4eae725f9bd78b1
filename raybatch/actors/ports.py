"""Ports: free ones for Ray, and who has a taken one."""

from __future__ import annotations

import contextlib
import socket

import psutil

from raybatch.errors import OperatorError


def free_ports(count: int) -> list[int]:
    """Distinct, free on all interfaces when asked, and outside Ray's default worker range (10002-19999)."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            listener = held.enter_context(socket.socket())
            listener.bind(("", 0))
            port = listener.getsockname()[1]
            if not 10_002 <= port <= 19_999:
                ports.append(port)
        return ports


def check_free(host: str, port: int) -> None:
    """Raises OperatorError that names the port and the process that has it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise OperatorError(
                f"port {port} on {host} is taken{_by_whom(port)}: {error.strerror}. "
                "Choose another with --port"
            ) from None


def _by_whom(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    return " by another user's process"
                name = psutil.Process(connection.pid).name()
                return f" by pid {connection.pid} ({name})"
    return ""
