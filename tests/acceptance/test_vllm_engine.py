"""vLLM's starts that fail: the operator is told why and what helps, and nothing is left running."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil
import pytest

from raybatch.engine.packaged_model import prepare_packaged_model
from raybatch.engine.vllm_engine import VllmEngine, VllmSettings
from raybatch.errors import EngineFailed

CACHE = Path(__file__).resolve().parents[2] / ".cache"
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.filterwarnings("default")]


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "no-such-model"

    with pytest.raises(EngineFailed, match=r"no model at .*no-such-model.*config\.json"):
        await _engine(str(missing), tmp_path).start()


async def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"holds no model: neither config\.json nor params\.json"):
        await _engine(str(tmp_path), tmp_path / "cache").start()


async def test_an_unknown_hub_model_on_a_machine_without_hub_fails_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(EngineFailed, match=r"not in this machine's hub cache .* give a model folder"):
        await _engine("nobody/no-such-model", tmp_path).start()


async def test_an_argument_vllm_does_not_know_is_named(tmp_path: Path) -> None:
    model = prepare_packaged_model(CACHE / "models")

    with pytest.raises(EngineFailed, match="max_model_length"):
        await _engine(str(model), tmp_path, extra={"max_model_length": 5}).start()
    with pytest.raises(EngineFailed, match="enable_log_requests"):
        await _engine(str(model), tmp_path, extra={"enable_log_requests": True}).start()


@pytest.mark.long
async def test_the_reason_found_by_the_engine_process_is_told(tmp_path: Path) -> None:
    """Weights are read in vLLM's child process, not in ours."""
    model = tmp_path / "broken"
    shutil.copytree(prepare_packaged_model(CACHE / "models"), model)
    weights = model / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)

    with pytest.raises(EngineFailed, match=r"could not load .*broken: .*SafetensorError"):
        await _engine(str(model), tmp_path).start()

    titles = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not [title for title in titles if title.startswith("VLLM")]


def _engine(model: str, cache_root: Path, **settings: object) -> VllmEngine:
    given = {"model": model, "served_names": ("m",), "cache_root": str(cache_root), "enforce_eager": True}
    return VllmEngine(VllmSettings(**given, max_model_len=256, kv_cache_memory_bytes=1 << 28, **settings))  # type: ignore[arg-type]
