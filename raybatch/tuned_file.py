"""What `raybatch tune` found out for a home's models: ``<home>/tuned.json``, one entry for each model.

A layer of the settings between the profile and what is said by hand. An entry counts on the machine it was
measured on and nowhere else; removing it, or the file, undoes it at the next start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from raybatch.config import Home, Settings, changed
from raybatch.errors import OperatorError

NAME: Final = "tuned.json"
REMOVE: Final = "remove the file, and `raybatch tune` again"
DEFAULTS: Final = Settings()


@dataclass(frozen=True)
class Tuning:
    machine: str  #: its GPUs or its processor, in words
    tuned_at: str  #: UTC, to the second
    vllm: dict[str, Any]  #: settings of the section ``vllm``
    measured_with: tuple[str, ...] = ()  #: ``section.key=value`` that held meanwhile, from the command line
    ratio: float | None = None  #: output tokens a second ÷ those before; None: that did not run


Tunings = dict[str, Tuning]  #: by model id


def tuned_path(home: Home) -> Path:
    return home.root / NAME


def read_tunings(home: Home) -> Tunings:
    """Empty where nothing was tuned. Raises OperatorError naming the file and what cannot be in it."""
    path = tuned_path(home)
    try:
        tunings = msgspec.json.decode(path.read_bytes(), type=Tunings)
        for tuning in tunings.values():
            changed(DEFAULTS.vllm, "vllm", tuning.vllm)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path} cannot be read: {error}; {REMOVE}") from None
    except OperatorError as error:
        raise OperatorError(f"{path}: {error.message}; {REMOVE}") from None
    return tunings


def write_tuning(home: Home, model_id: str, tuning: Tuning | None) -> None:
    """In place of the one before; None takes it away."""
    tunings = {name: known for name, known in read_tunings(home).items() if name != model_id}
    if tuning is not None:
        tunings[model_id] = tuning
    path = tuned_path(home)
    if not tunings:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(tunings), indent=2))
    temporary.chmod(0o600)
    temporary.replace(path)


def with_tunings(settings: Settings, tunings: Tunings, machine: str) -> Settings:
    """Those of the models served, as far as they were measured on this machine."""
    served = {model.id for model in settings.models}
    return replace(
        settings,
        tuned={
            name: dict(tuning.vllm)
            for name, tuning in tunings.items()
            if name in served and tuning.machine == machine
        },
    )
