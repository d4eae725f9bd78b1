"""The head: the machine whose disk has journal and ledger, and where Ray listens for the others."""

from __future__ import annotations

import errno
import ipaddress
import socket
from pathlib import Path
from typing import Final

from raybatch.config import RaySettings
from raybatch.errors import OperatorError

#: resources to ask Ray for, by whatever belongs on the head: Ray gives each head one of these and no other
#: machine any, so that they hold on a head of an older raybatch, too
ON_HEAD: Final = {"node:__internal_head__": 0.001}


def on_network(settings: RaySettings) -> bool:
    """Whether other machines can reach Ray."""
    return not ipaddress.IPv4Address(settings.node_ip).is_loopback


def check_head(settings: RaySettings) -> None:
    """Raises OperatorError naming the setting with which Ray could not start here."""
    launched = settings.autoscaling_config
    if launched and not Path(launched).expanduser().is_file():
        raise OperatorError(
            f"ray.autoscaling_config is {launched}, and there is no such file: Ray's launcher leaves it on"
            " the head as ~/ray_bootstrap_config.yaml; without the launcher, leave the setting empty"
        )
    try:
        reachable = not ipaddress.IPv4Address(settings.node_ip).is_unspecified
    except ValueError:
        reachable = False
    if not reachable:
        raise OperatorError(
            f"ray.node_ip is '{settings.node_ip}': it takes the one IPv4 address of this machine at which the"
            " others reach it, such as 192.168.1.10, or 127.0.0.1 where there are none"
        )
    _check_listening(settings)


def _check_listening(settings: RaySettings) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.node_ip, settings.head_port))
        except OSError as error:
            wrong = "ray.node_ip" if error.errno == errno.EADDRNOTAVAIL else "ray.head_port"
            raise OperatorError(
                f"Ray cannot listen at {settings.node_ip}, port {settings.head_port}: {error.strerror}."
                f" Choose another with --set {wrong}"
            ) from None
