from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raybatch.cli.main import app, global_options_first
from raybatch.config import Home
from tests.cli.conftest import Run
from tests.cli.fake_server import ADMIN_TOKEN, FakeServer

COMMANDS = [command.name for command in app.registered_commands]
SLOW = ("ray", "duckdb", "pyarrow", "openai", "httpx", "pycountry", "psutil")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_help_loads_none_of_the_slow_libraries() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom raybatch.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print([name for name in {SLOW} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_global_options_may_follow_the_command() -> None:
    words = ["sql", "--home", "/h", "--url=http://u", "SELECT 1", "--json", "--", "--home"]
    assert global_options_first(words) == [
        *("--home", "/h", "--url=http://u"),
        *("sql", "SELECT 1", "--json", "--", "--home"),
    ]


def test_a_closed_port_is_one_line_that_names_the_url_and_what_starts_a_server(raybatch: Run) -> None:
    result = raybatch("batches", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "http://127.0.0.1:9" in result.stderr
    assert "raybatch up" in result.stderr


def test_a_missing_key_is_answered_with_the_option_that_passes_one(raybatch: Run, server: FakeServer) -> None:
    server.answer("GET", "/v1/models", (401, {"error": {"message": "You didn't provide an API key."}}))
    result = raybatch("models")
    assert result.exit_code == 1
    assert "--api-key" in result.stderr


def test_the_key_goes_to_the_api_and_the_token_of_the_home_to_the_admin_door(
    raybatch: Run, server: FakeServer, running: object
) -> None:
    server.answer("GET", "/v1/models", {"data": [{"id": "org/small"}, {"id": "small"}]})
    server.answer("GET", "/admin/overview", (503, {"error": {"message": "the scheduler is starting"}}))
    shown = raybatch("models", "--api-key", "sk-1").stdout.splitlines()
    assert [line.split()[:2] for line in shown[1:]] == [["org/small", "—"], ["small", "—"]]
    raybatch("status", "--api-key", "sk-1")
    assert [asked.bearer for asked in server.asked] == ["sk-1", ADMIN_TOKEN]


def test_an_unreadable_home_is_named_instead_of_a_traceback(
    raybatch: Run, home: Home, running: object
) -> None:
    (home.run / "admin_token").unlink()
    result = raybatch("sql", "SELECT 1")
    assert result.exit_code == 1
    assert str(home.run / "admin_token") in result.stderr


def test_an_address_that_is_none_is_refused(raybatch: Run) -> None:
    result = raybatch("models", "--url", "127.0.0.1:8420")
    assert result.exit_code == 1
    assert "127.0.0.1:8420" in result.stderr


def test_demo_data_writes_as_many_requests_as_asked_the_same_ones_each_time(
    raybatch: Run, tmp_path: Path
) -> None:
    out = tmp_path / "questions.jsonl"
    assert raybatch("demo-data", "--rows", "30", "-o", str(out), "--model", "org/small").exit_code == 0
    requests = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert len({request["custom_id"] for request in requests}) == 30
    assert {request["body"]["model"] for request in requests} == {"org/small"}
    again = raybatch("demo-data", "--rows", "30", "-o", "-", "--model", "org/small")
    assert again.stdout_bytes == out.read_bytes()
