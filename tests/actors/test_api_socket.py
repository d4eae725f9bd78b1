"""The API's socket, given from one process to another: here within one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from raybatch.actors.api_socket import API_SOCKET_NAME, ApiSocket, take_api_socket
from raybatch.actors.ports import free_ports

HOST = "127.0.0.1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / API_SOCKET_NAME


def test_who_connects_while_nobody_serves_is_taken_by_the_next(path: Path) -> None:
    (port,) = free_ports(1)
    held = ApiSocket(HOST, port, path)
    with pytest.raises(ConnectionRefusedError):  # nobody has served yet
        socket.create_connection((HOST, port))
    with take_api_socket(path) as first:
        first.listen()
    with socket.create_connection((HOST, port)) as client:
        client.sendall(b"still there?")
        with take_api_socket(path) as second, second.accept()[0] as accepted:
            assert accepted.recv(100) == b"still there?"
    held.close()
    with pytest.raises(ConnectionRefusedError):
        take_api_socket(path)


def test_a_taken_address_and_a_missing_supervisor_are_said(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        take_api_socket(path)
    with socket.create_server((HOST, 0)) as other, pytest.raises(OSError, match="in use"):
        ApiSocket(HOST, other.getsockname()[1], path)
    assert not path.exists()
