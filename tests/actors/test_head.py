from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from raybatch.actors.head import check_head, on_network
from raybatch.actors.supervisor import socket_variables
from raybatch.config import Home, RaySettings
from raybatch.errors import OperatorError

LOOPBACK = RaySettings()


def test_by_default_ray_is_for_this_machine_alone() -> None:
    check_head(LOOPBACK)
    assert not on_network(LOOPBACK)
    assert on_network(replace(LOOPBACK, node_ip="192.168.1.10"))


def test_a_taken_port_to_join_at_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK.node_ip, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=rf"127\.0\.0\.1, port {port}: .* --set ray\.head_port"):
            check_head(replace(LOOPBACK, head_port=port))


def test_an_address_of_another_machine_is_refused_with_its_setting() -> None:
    with pytest.raises(OperatorError, match=r"203\.0\.113\.7.* --set ray\.node_ip"):
        check_head(replace(LOOPBACK, node_ip="203.0.113.7"))


@pytest.mark.parametrize("node_ip", ["0.0.0.0", "::", "head", ""])
def test_what_no_other_machine_could_join_at_is_refused(node_ip: str) -> None:
    with pytest.raises(OperatorError, match=f"ray.node_ip is '{node_ip}'"):
        check_head(replace(LOOPBACK, node_ip=node_ip))


def test_a_launchers_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ray_bootstrap_config.yaml"
    given = replace(LOOPBACK, autoscaling_config=str(path))
    with pytest.raises(OperatorError, match=r"ray\.autoscaling_config is .*ray_bootstrap_config\.yaml"):
        check_head(given)
    path.touch()
    check_head(given)


def test_sockets_of_a_home_with_a_long_path_lie_where_rays_do(tmp_path: Path) -> None:
    """The kernel takes paths of 107 bytes, and vLLM adds 37 to the folder's."""
    home, short = Home(tmp_path / ("long" * 30)), tmp_path / "rb-12345678"
    assert socket_variables(home, home.root / "ray") == {}
    assert socket_variables(home, short) == {"VLLM_RPC_BASE_PATH": str(short)}
