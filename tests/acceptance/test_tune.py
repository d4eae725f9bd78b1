"""`raybatch tune` on real vLLM: a candidate that runs and one with which no engine starts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raybatch.actors import cluster
from raybatch.cli.main import app
from raybatch.config import Home
from raybatch.engine.packaged_model import prepare_packaged_model
from raybatch.tuned_file import read_tunings

CACHE = Path(__file__).resolve().parents[2] / ".cache"
LIMIT_S = 1_500  #: each candidate and round loads vLLM


@pytest.fixture
def short_path() -> Iterator[Path]:
    """The names of vLLM's sockets, below it, have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="rb-") as path:
        yield Path(path)


@pytest.mark.long
@pytest.mark.timeout(LIMIT_S)
@pytest.mark.vllm
@pytest.mark.cluster
@pytest.mark.filterwarnings("default")
def test_a_candidate_that_cannot_start_is_skipped_and_the_present_setting_stays(
    tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM refuses fewer tokens a step than rows at once: 32 where 64 rows may run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(short_path))
    home = Home(tmp_path / "home")
    model = f"tiny={prepare_packaged_model(CACHE / 'models')}"
    shape = ("--rows", "16", "--prompt-words", "10", "--output-tokens", "8")

    words = ("--home", str(home.root), "tune", model, *shape, "--try", "vllm.max_num_batched_tokens=32")
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 0, result.output
    assert "did not run: engine" in result.stdout
    assert "max_num_batched_tokens (32)" in result.stdout
    assert "vllm.max_num_batched_tokens=2048 stays" in result.stdout
    assert read_tunings(home) == {}
    assert cluster.processes(Home(short_path / "raybatch-tune")) == []
