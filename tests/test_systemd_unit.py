"""The unit starts and stops what there is, and gives it the time it needs."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raybatch.actors.cluster import STOP_MAX_S
from raybatch.cli.main import app
from raybatch.config import EngineSettings

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((ROOT / "docs/raybatch.service").read_text())
    return parser


@pytest.mark.parametrize("key", ["ExecStart", "ExecStop"])
def test_its_commands_are_the_installed_program_and_take_their_options(
    unit: configparser.ConfigParser, key: str
) -> None:
    program, command, *options = shlex.split(unit["Service"][key])
    assert Path(program.replace("%h/raybatch", str(ROOT))).exists()
    told = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    for option in options:
        assert not option.startswith("-") or option in told


def test_it_stays_in_the_foreground_and_only_failures_start_it_again(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert "--foreground" in service["ExecStart"]
    assert service.get("Type", "simple") == "simple"
    assert (service["Restart"], service["KillMode"]) == ("on-failure", "mixed")


def test_draining_and_stopping_fit_into_the_time_it_gives(unit: configparser.ConfigParser) -> None:
    drain_s = EngineSettings().drain_s + 10.0  # as `raybatch down` waits
    assert float(unit["Service"]["TimeoutStopSec"]) >= drain_s + STOP_MAX_S
