"""Is there a model where the settings point? Asked before vLLM starts: its own answers are hard to read.

A source is a folder or the id of a model on the Hugging Face hub, which is asked the way every program does
it: ``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` count. A model that is whole in its
cache is fine whatever the hub says. It downloads nothing and never repeats a question to a hub that is slow.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from raybatch.errors import EngineFailed

LOOK_UP_MAX_S: Final = 10.0
#: as vLLM chooses: the first pattern that any file fits, and never a copy in the original's own format
_WEIGHTS: Final = ("*.safetensors", "*.bin", "*.pt")
_BESIDE_WEIGHTS: Final = ("*.json", "*.txt", "*.model", "*.jinja")
_NEVER: Final = "original/*"


@dataclass(frozen=True, slots=True)
class Hub:
    """What one short look at the hub found."""

    endpoint: str
    offline: bool  #: switched off by HF_HUB_OFFLINE: it was not asked
    has_token: bool
    fault: str | None  #: why it did not answer
    clock_at: float | None = None  #: its own clock, in seconds since the epoch


def check_model_source(source: str, look_up_max_s: float = LOOK_UP_MAX_S) -> int:
    """How many bytes loading it would download first. Raises EngineFailed: what was found, what helps."""
    if source.startswith(("/", ".", "~")) or Path(source).exists():
        _check_folder(Path(source).expanduser())
        return 0
    return _check_hub(source, look_up_max_s)


def look_at_hub(look_up_max_s: float) -> Hub:
    """Never raises."""
    from huggingface_hub import constants, get_session, get_token

    offline, has_token = constants.is_offline_mode(), get_token() is not None
    if offline:
        return Hub(constants.ENDPOINT, True, has_token, None)
    try:
        answer = get_session().head(constants.ENDPOINT, timeout=look_up_max_s)
    except Exception as error:
        return Hub(constants.ENDPOINT, False, has_token, _first_line(error))
    clock_at = None
    with contextlib.suppress(KeyError, ValueError):
        clock_at = parsedate_to_datetime(answer.headers["date"]).timestamp()
    return Hub(constants.ENDPOINT, False, has_token, None, clock_at)


def _check_folder(path: Path) -> None:
    if not path.exists():
        raise EngineFailed(f"There is no model at {path}. Give the folder that holds its config.json.")
    if path.is_dir() and not any((path / name).is_file() for name in ("config.json", "params.json")):
        raise EngineFailed(
            f"The folder {path} holds no model: neither config.json nor params.json was found in it."
        )


def _check_hub(model_id: str, look_up_max_s: float) -> int:
    from huggingface_hub.errors import HFValidationError

    try:
        missing_bytes = _ask_hub(model_id, look_up_max_s)
    except HFValidationError as error:
        raise EngineFailed(f"{model_id!r} is neither a folder nor the id of a model: {error}") from None
    except Exception as error:
        if _is_whole_in_cache(model_id):
            return 0
        raise EngineFailed(_refusal(model_id, error)) from None
    _check_disk(model_id, missing_bytes)
    return missing_bytes


def _ask_hub(model_id: str, look_up_max_s: float) -> int:
    """Bytes of its files that are not in the cache. The first question tells who may have them."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with contextlib.suppress(RemoteEntryNotFoundError):  # a model of another make: vLLM has the last word
        get_hf_file_metadata(hf_hub_url(model_id, "config.json"), timeout=look_up_max_s)
    found = HfApi().model_info(model_id, files_metadata=True, timeout=look_up_max_s)
    files = {file.rfilename: file for file in found.siblings or ()}
    cached = _cache_of(model_id) / "blobs"
    return sum(
        files[name].size or 0
        for name in _loaded(files)
        if not any((cached / blob).exists() for blob in _blob_names(files[name]))
    )


def _loaded(names: Iterable[str]) -> list[str]:
    """Those vLLM downloads."""
    wanted = [name for name in names if not fnmatch(name, _NEVER)]
    for pattern in _WEIGHTS:
        weights = [name for name in wanted if fnmatch(name, pattern)]
        if weights:
            break
    beside = [name for name in wanted if any(fnmatch(name, pattern) for pattern in _BESIDE_WEIGHTS)]
    return [*weights, *beside]


def _blob_names(file: Any) -> list[str]:
    """What the cache may call the bytes of one of the hub's files."""
    names = (file.lfs and file.lfs.sha256, file.blob_id)
    return [name for name in names if name]


def _check_disk(model_id: str, missing_bytes: int) -> None:
    cache = _cache_of(model_id).parent
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free_bytes = shutil.disk_usage(there).free
    if missing_bytes > free_bytes:
        raise EngineFailed(
            f"The model {model_id} needs {_gib(missing_bytes)} more in {cache}, and {_gib(free_bytes)} are"
            " free there. Free some space, set HF_HOME to a folder on a larger disk, or give a folder that"
            f" holds the model: --model {model_id}=DIR."
        )
    if missing_bytes and not os.access(there, os.W_OK | os.X_OK):
        raise EngineFailed(
            f"The model {model_id} has to be downloaded to {cache}, and {there} cannot be written: set"
            " HF_HOME to a folder of your own."
        )


def _is_whole_in_cache(model_id: str) -> bool:
    """As far as can be told without the hub: every part of the weights that its index names."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model_id, "config.json")
    if not isinstance(config, str):
        return False
    snapshot = Path(config).parent
    index = snapshot / "model.safetensors.index.json"
    try:
        parts = set(json.loads(index.read_bytes())["weight_map"].values())
    except FileNotFoundError:
        return any(path.exists() for pattern in _WEIGHTS for path in snapshot.glob(pattern))
    except (ValueError, KeyError):
        return False
    return all((snapshot / part).exists() for part in parts)


def _refusal(model_id: str, error: Exception) -> str:
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    has_token = get_token() is not None
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        helps = (
            "the account of the token in HF_TOKEN has no access: accept its terms on its hub page"
            if has_token
            else "accept its terms on its hub page, then set HF_TOKEN to a token of that account"
        )
        return f"The model {model_id} is gated: {helps}, and start again."
    if isinstance(error, RepositoryNotFoundError) or (status == 401 and not has_token):
        other = "another token" if has_token else "a token"
        return (
            f"The hub has no model {model_id}, or it is private: check the spelling, or set HF_TOKEN to"
            f" {other} that may read it."
        )
    if status in (401, 403):
        return (
            f"The hub refuses the token in HF_TOKEN for {model_id} (HTTP status {status}): it is wrong,"
            " expired or may not read models. Set HF_TOKEN to another one; open models need none."
        )
    return (
        f"The model {model_id} is not in this machine's hub cache ({_cache_of(model_id).parent}), or not"
        f" whole, and {_no_answer(error)}. Download it first, or give a model folder: --model {model_id}=DIR."
    )


def _no_answer(error: Exception) -> str:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE keeps the hub from being asked"
    return f"the hub at {constants.ENDPOINT} could not be asked ({_first_line(error)})"


def _cache_of(model_id: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / str(repo_folder_name(repo_id=model_id, repo_type="model"))


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
