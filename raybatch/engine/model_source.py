"""Is there a model where the settings point? Asked before vLLM starts: its own answers are hard to read.

A source is a folder or the id of a model on the Hugging Face hub. It downloads one small file at most.
"""

from __future__ import annotations

from pathlib import Path

from raybatch.errors import EngineFailed

_LOOK_UP_MAX_S = 10.0


def check_model_source(source: str) -> None:
    """Raises EngineFailed saying what was found there and what helps."""
    if source.startswith(("/", ".", "~")) or Path(source).exists():
        _check_folder(Path(source).expanduser())
    else:
        _check_hub(source)


def _check_folder(path: Path) -> None:
    if not path.exists():
        raise EngineFailed(f"There is no model at {path}. Give the folder that holds its config.json.")
    if path.is_dir() and not any((path / name).is_file() for name in ("config.json", "params.json")):
        raise EngineFailed(
            f"The folder {path} holds no model: neither config.json nor params.json was found in it."
        )


def _check_hub(model_id: str) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        hf_hub_download(model_id, "config.json", etag_timeout=_LOOK_UP_MAX_S)
    except HFValidationError as error:
        raise EngineFailed(f"{model_id!r} is neither a folder nor the id of a model: {error}") from None
    except GatedRepoError:
        raise EngineFailed(
            f"The model {model_id} is gated: accept its terms on its hub page, then set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise EngineFailed(
            f"The hub has no model {model_id}, or it is private: check the spelling, or set HF_TOKEN."
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise EngineFailed(
            f"The model {model_id} is not in this machine's hub cache and the hub could not be asked "
            f"({_first_line(error)}). Download it first, give a model folder, or unset HF_HUB_OFFLINE."
        ) from None
    except Exception:
        return  # a hub with other habits, a model without config.json: vLLM has the last word


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
