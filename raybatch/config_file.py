"""The one file a raybatch can be configured with: TOML, any section of the settings, and ``[[models]]``.

It says what the file holds and refuses what no setting is called, naming the file. Profiles and what wins
over what are ``raybatch.config``'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from raybatch.config import PACKAGED_MODEL, PROFILES, SECTIONS, ModelSettings, Sections, Settings, changed
from raybatch.errors import OperatorError

MODEL_KEYS: Final = ("id", "source", "aliases", "vllm")


@dataclass(frozen=True)
class ConfigFile:
    profile: str | None
    models: tuple[ModelSettings, ...]
    sections: Sections


NO_FILE: Final = ConfigFile(None, (), {})
DEFAULTS: Final = Settings()


def read_config(path: Path) -> ConfigFile:
    """Raises OperatorError that names the file, what was found in it and what it may hold.

    A model's ``source`` that is a folder is meant from the file's own folder.
    """
    try:
        return _config(_toml(path), path.resolve().parent)
    except OperatorError as error:
        raise OperatorError(f"{path}: {error.message}") from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise OperatorError(f"cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperatorError(f"is not TOML: {error}") from None


def _config(tables: dict[str, Any], folder: Path) -> ConfigFile:
    profile = tables.pop("profile", None)
    models = tables.pop("models", [])
    if profile is not None and profile not in PROFILES:
        raise OperatorError(f"unknown profile '{profile}': choose one of {', '.join(PROFILES)}")
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        raise OperatorError("'models' is not a list of tables: begin each model with a line [[models]]")
    for name, values in tables.items():
        if name not in SECTIONS:
            raise OperatorError(f"unknown section '{name}': there are profile, models, {', '.join(SECTIONS)}")
        if not isinstance(values, dict):
            raise OperatorError(f"'{name}' is a section: write [{name}] and its settings below it")
        changed(getattr(DEFAULTS, name), name, values)  # refused here, where the file is named
    return ConfigFile(
        profile, tuple(_model(model, number, folder) for number, model in enumerate(models, start=1)), tables
    )


def _model(table: dict[str, Any], number: int, folder: Path) -> ModelSettings:
    named = f"model {number} ('{table['id']}')" if "id" in table else f"model {number}"
    if unknown := sorted(table.keys() - set(MODEL_KEYS)):
        raise OperatorError(f"{named} has no setting '{unknown[0]}': it has {', '.join(MODEL_KEYS)}")
    try:
        model = msgspec.convert(table, ModelSettings)
    except msgspec.ValidationError as error:
        raise OperatorError(f"{named} cannot be: {error}") from None
    try:
        changed(DEFAULTS.vllm, "vllm", model.vllm)
    except OperatorError as error:
        raise OperatorError(f"{named}: {error.message}") from None
    if not model.source and model.id in PACKAGED_MODEL.names:
        aliases = (*PACKAGED_MODEL.aliases, *(a for a in model.aliases if a not in PACKAGED_MODEL.names))
        return replace(PACKAGED_MODEL, aliases=aliases, vllm=model.vllm)
    return replace(model, source=_source(model.source, folder))


def _source(source: str, folder: Path) -> str:
    """A folder's whole path; a hub id as it is."""
    meant = folder / Path(source).expanduser()
    if source.startswith(("/", ".", "~")) or (source and meant.is_dir()):
        return str(meant.resolve())
    return source
