"""Every command on the performance page exists, with every option it is shown with."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from jobs import benchmark, large, scale
from raybatch.cli.main import app as raybatch

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
SHOWN = re.findall(r"^\$ (.*)$", PAGE.read_text(), flags=re.M)
MEASURING = {
    command.name or getattr(command.callback, "__name__", "") for command in benchmark.app.registered_commands
}
MAINS = {"jobs.scale": scale.main, "jobs.large": large.main}


@pytest.mark.parametrize("command", SHOWN)
def test_a_command_of_the_page_can_be_typed(command: str) -> None:
    words = shlex.split(command, comments=True)
    match words:
        case ["python", "-m", "jobs.benchmark", *rest]:
            app = benchmark.app
        case ["python", "-m", module, *rest] if module in MAINS:
            app = typer.Typer()
            app.command()(MAINS[module])
        case ["raybatch", *rest]:
            app = raybatch
        case ["bash", script]:
            assert (PAGE.parents[1] / script).exists()
            return
        case _:
            pytest.fail(f"no way to run {command!r}")
    ended = CliRunner().invoke(app, [*rest, "--help"])
    assert ended.exit_code == 0, ended.output


def test_the_page_has_every_measuring_command() -> None:
    assert {command.split()[3] for command in SHOWN if "jobs.benchmark" in command} == MEASURING
