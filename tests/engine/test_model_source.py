"""What is said of a model that cannot be had, by the hub's real client against a hub on localhost.

Each look-up runs in a process of its own: the client reads its environment once, when it is imported.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raybatch.actors.supervisor import head_environment
from raybatch.config import Home
from raybatch.engine.model_source import check_model_source
from raybatch.errors import EngineFailed
from tests.engine.fake_hub import STRANGERS_TOKEN, TOKEN, FakeHub, Repository, fake_hub

MODEL = "org/small"
WEIGHTS = {"a.safetensors": b"a" * 700, "b.safetensors": b"b" * 300}
INDEX = json.dumps({"weight_map": {"layer.0": "a.safetensors", "layer.1": "b.safetensors"}}).encode()
FILES = {"config.json": b"{}", "model.safetensors.index.json": INDEX, **WEIGHTS}
NOT_LOADED = {"README.md": b"r" * 5_000, "copy.bin": b"c" * 9_000, "original/x.safetensors": b"x" * 8_000}

LOOK_UP = """
import sys
from raybatch.engine.model_source import check_model_source
from raybatch.errors import EngineFailed
try:
    print(check_model_source(sys.argv[1], look_up_max_s=float(sys.argv[2])))
except EngineFailed as error:
    print(error.message)
"""
DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
for name in sys.argv[2:]:
    hf_hub_download(sys.argv[1], name)
"""
Run = Callable[..., str]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        hub.repositories[MODEL] = Repository(FILES | NOT_LOADED)
        yield hub


@pytest.fixture
def run(hub: FakeHub, tmp_path: Path) -> Run:
    """A program in the environment of a person who uses the hub; ``changes`` None takes a variable away."""

    def run(program: str, *words: str, **changes: str | None) -> str:
        variables = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": None,
            "HF_HUB_CACHE": None,
            "HF_HUB_OFFLINE": None,
            "TRANSFORMERS_OFFLINE": None,
            **changes,
        }
        inherited = {name: value for name, value in os.environ.items() if name not in variables}
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            env=inherited | {name: value for name, value in variables.items() if value is not None},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return done.stdout.strip()

    return run


def look_up(run: Run, model_id: str = MODEL, look_up_max_s: float = 60.0, **changes: str | None) -> str:
    return run(LOOK_UP, model_id, str(look_up_max_s), **changes)


def test_an_open_model_is_found_and_what_is_to_be_downloaded_is_counted(run: Run, hub: FakeHub) -> None:
    assert look_up(run) == str(sum(len(content) for content in FILES.values()))
    assert hub.tokens_seen == {""}
    run(DOWNLOAD, MODEL, "config.json", "a.safetensors")
    assert look_up(run) == str(len(INDEX) + len(WEIGHTS["b.safetensors"]))
    run(DOWNLOAD, MODEL, *FILES)
    assert look_up(run) == "0"


def test_a_gated_model_wants_a_token_and_the_token_of_the_environment_is_used(run: Run, hub: FakeHub) -> None:
    hub.repositories[MODEL].gated = True
    assert "is gated: accept its terms on its hub page, then set HF_TOKEN" in look_up(run)
    assert "the account of the token in HF_TOKEN has no access" in look_up(run, HF_TOKEN=STRANGERS_TOKEN)
    assert look_up(run, HF_TOKEN=TOKEN).isdigit()
    assert hub.tokens_seen == {"", STRANGERS_TOKEN, TOKEN}


def test_a_wrong_token_is_named_as_the_reason_and_never_shown(run: Run, hub: FakeHub) -> None:
    hub.repositories[MODEL].gated = True
    said = look_up(run, HF_TOKEN="hf_wrong")
    assert "refuses the token in HF_TOKEN" in said
    assert "hf_wrong" not in said


def test_a_missing_or_private_repository_asks_for_its_spelling_or_a_token(run: Run) -> None:
    assert "no model org/smal, or it is private: check the spelling" in look_up(run, "org/smal")
    assert "another token" in look_up(run, "org/smal", HF_TOKEN=TOKEN)


def test_a_name_that_is_no_id_is_refused_without_asking(run: Run, hub: FakeHub) -> None:
    assert "neither a folder nor the id of a model" in look_up(run, "a/b/c")
    assert hub.tokens_seen == set()


@pytest.mark.parametrize("why", ["offline", "closed", "silent"])
def test_a_hub_that_does_not_answer_matters_only_to_a_model_that_is_not_whole_in_the_cache(
    run: Run, hub: FakeHub, why: str
) -> None:
    run(DOWNLOAD, MODEL, "config.json", "model.safetensors.index.json", "a.safetensors")
    changes, said = unanswered(hub, why)
    refused = look_up(run, look_up_max_s=0.5, **changes)
    assert f"The model {MODEL} is not in this machine's hub cache" in refused
    assert said in refused
    assert "--model org/small=DIR" in refused
    hub.silent = False
    run(DOWNLOAD, MODEL, "b.safetensors")
    changes, _ = unanswered(hub, why)
    assert look_up(run, look_up_max_s=0.5, **changes) == "0"


def unanswered(hub: FakeHub, why: str) -> tuple[dict[str, str], str]:
    """The environment in which the hub stays away, and what is to be said of it."""
    if why == "offline":
        return {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE keeps the hub from being asked"
    if why == "closed":
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return {"HF_ENDPOINT": endpoint}, f"the hub at {endpoint} could not be asked"
    hub.silent = True
    return {}, f"the hub at {hub.url} could not be asked"


def test_a_model_larger_than_the_disk_is_refused_with_both_sizes_and_what_helps(
    run: Run, hub: FakeHub, tmp_path: Path
) -> None:
    hub.repositories[MODEL].sizes["a.safetensors"] = 1 << 60
    said = look_up(run)
    assert "needs 1073741824.0 GiB more in " + str(tmp_path / "hf" / "hub") in said
    assert "are free there" in said
    assert "set HF_HOME" in said
    assert "--model org/small=DIR" in said


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="There is no model at"):
        check_model_source(str(tmp_path / "none"))
    with pytest.raises(EngineFailed, match=r"neither config\.json nor params\.json"):
        check_model_source(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert check_model_source(str(tmp_path)) == 0


def test_the_hubs_variables_of_the_shell_reach_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    for name in ("HF_TOKEN", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, f"own-{name}")
        assert head_environment(home, "c1")[name] == f"own-{name}"
