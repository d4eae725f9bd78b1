"""`ray up` takes cluster.yaml, and nothing in it starts a Ray that lets strangers in."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.testing import CliRunner

from raybatch.actors.engine_names import engine_names
from raybatch.cli.main import app
from raybatch.config import ModelSettings, make_settings

PATH = Path(__file__).resolve().parent.parent / "cluster.yaml"


@pytest.fixture
def given() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(PATH.read_text())
    return config


def test_ray_accepts_it_as_it_prepares_it_for_up(given: dict[str, Any]) -> None:
    prepared = prepare_config(given)
    validate_config(prepared)
    (kind,) = prepared["available_node_types"].values()
    count = len(given["provider"]["worker_ips"])
    assert (kind["min_workers"], kind["max_workers"]) == (count, count)


def test_a_misspelt_key_would_be_seen(given: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="worker_start_ray_comands"):
        validate_config(prepare_config(given | {"worker_start_ray_comands": []}))


def test_every_ray_that_is_started_asks_for_the_mounted_token(given: dict[str, Any]) -> None:
    commands = [command for key in given if key.endswith("_commands") for command in given[key]]
    starts = [command for command in commands if re.search(r"\bray start\b", command)]
    assert starts
    token = "~/.config/raybatch/ray_token"
    assert token in given["file_mounts"]
    for command in starts:
        assert "RAY_AUTH_MODE=token" in command
        assert f"RAY_AUTH_TOKEN_PATH={token.replace('~', '$HOME')}" in command
    assert any(f"install -D -m 600 {token} /srv/raybatch/run/ray_token" in command for command in commands)


def test_the_others_join_where_the_head_listens(given: dict[str, Any]) -> None:
    head, join = given["head_start_ray_commands"][-1], given["worker_start_ray_commands"][-1]
    assert f"ray.node_ip={given['provider']['head_ip']}" in head
    (port,) = re.findall(r"ray\.head_port=(\d+)", head)
    assert f"--address=$RAY_HEAD_IP:{port}" in join
    assert port != "6379"


def test_its_raybatch_commands_and_options_exist(given: dict[str, Any]) -> None:
    for command in given["head_start_ray_commands"]:
        program, home, _, name, *options = shlex.split(command)
        assert (program, home) == ("~/raybatch/.venv/bin/raybatch", "--home")
        told = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"})
        assert told.exit_code == 0
        assert all(option in told.stdout for option in options if option.startswith("--"))


def test_its_settings_are_taken(given: dict[str, Any]) -> None:
    options = list(pairwise(shlex.split(given["head_start_ray_commands"][-1])))
    value = dict(options)
    assignments = tuple(assignment for option, assignment in options if option == "--set")
    settings = make_settings(value["--profile"], assignments, models=(ModelSettings(value["--model"]),))
    assert settings.ray.node_ip == given["provider"]["head_ip"]
    assert settings.ray.autoscaling_config == "~/ray_bootstrap_config.yaml"  # where Ray's launcher leaves it
    names = [name.engine_id for name in engine_names(settings)]
    assert len(names) == 1 + len(given["provider"]["worker_ips"]), "an engine for each machine's GPU"


def test_the_others_keep_rays_files_off_the_shared_home(given: dict[str, Any]) -> None:
    assert "--temp-dir=/tmp/" in given["worker_start_ray_commands"][-1]
