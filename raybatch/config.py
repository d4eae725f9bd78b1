"""Settings: defaults, a profile, a config file, ``--set section.key=value``; and the paths under a home.

A home is one raybatch: its settings, token, ledger, uploads and results. Settings are written to
``<home>/settings.json`` by ``raybatch up`` and read from there by every process, so that all agree.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

import msgspec

from raybatch.core.fitness import GpuLimits
from raybatch.core.model import Validation
from raybatch.core.policy import Policy
from raybatch.core.quiet import QuietHours, check_quiet
from raybatch.errors import OperatorError

API_PORT_DEFAULT = 8420  #: not 8000, which `vllm serve` takes


@dataclass(frozen=True)
class ApiSettings:
    host: str = "127.0.0.1"
    port: int = API_PORT_DEFAULT
    key_sha256: str | None = None  #: hex digest of the static key; needed when host is not loopback
    allowed_hosts: tuple[str, ...] = ()  #: further names a browser may reach the API under
    completion_windows: tuple[str, ...] = ("24h",)  #: on offer: whole minutes, hours or days, such as "30m"
    openai_limits: bool = False  #: all that OpenAI itself limits, where no other setting says otherwise
    upload_bytes_max: int = 512 << 20  #: of a file sent in one piece
    uploads_at_once_max: int = 4
    large_upload_bytes_max: int = 8 << 30  #: of a file sent in parts
    parts_at_once_max: int = 8

    @property
    def windows_s(self) -> dict[str, float]:
        """The completion windows by name. Raises OperatorError for what is no duration."""
        return {name: _duration_s("api.completion_windows", name) for name in self.completion_windows}


@dataclass(frozen=True)
class ModelSettings:
    id: str
    source: str = ""  #: a directory, a hub id, or "packaged"; empty: the id itself
    aliases: tuple[str, ...] = ()
    vllm: dict[str, Any] = field(default_factory=dict)  #: what differs from the section of this name

    @property
    def names(self) -> tuple[str, ...]:
        return (self.id, *self.aliases)


@dataclass(frozen=True)
class EngineSettings:
    kind: str = "vllm"  #: "vllm" or "echo"
    slots: int = 0  #: engines that serve all models in turns; 0: one engine per model and replica
    replicas: int = 1  #: engines per model, where there are no slots
    gpus: float = 0.0  #: GPUs an engine is pinned to; 0 on a CPU-only machine
    window_rows: int = 0  #: rows in flight; 0: what the engine itself names
    flush_s: float = 3.0  #: finished rows are committed at least so often
    flush_rows: int = 4000
    report_s: float = 1.0  #: heartbeat
    row_attempts_max: int = 3  #: tries of a row that the engine asks to send again
    row_max_s: float = 0.0  #: a row that has no answer by then becomes an error row; 0: it may take its time
    drain_s: float = 20.0  #: rows in flight get so long when an engine is drained
    hang_s: float = 60.0  #: no progress for so long while rows run, or for 20 x the longest step: it hangs


@dataclass(frozen=True)
class VllmSettings:
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_model_len: int = 0  #: 0: the model's own
    enforce_eager: bool = False
    kv_cache_memory_bytes: int = 0  #: 0: by gpu_memory_utilization
    gpu_memory_utilization: float = 0.85
    tensor_parallel_size: int = 1
    dtype: str = "auto"
    cpu_threads_bind: str = ""  #: VLLM_CPU_OMP_THREADS_BIND; empty: vLLM's choice
    window_ratio: float = 1.125  #: rows in flight ÷ max_num_seqs, where engine.window_rows is 0
    load_format: str = "auto"
    extra: dict[str, Any] = field(
        default_factory=dict
    )  #: other arguments of `vllm serve`: {"quantization": "fp8"}


@dataclass(frozen=True)
class EchoSettings:
    """A step takes ``alpha_ms + beta_ms * running`` and yields one token per running row."""

    alpha_ms: float = 0.0
    beta_ms: float = 0.0
    concurrency: int = 256
    startup_s: float = 0.0
    tally: str = ""  #: a file that grows by one byte for each row that begins; empty: none


@dataclass(frozen=True)
class IntakeSettings:
    line_bytes_max: int = 8 << 20
    strict: bool = True  #: of batches that do not say themselves which ``validation`` they want
    group_prefixes: bool = True  #: run rows whose prompts begin alike one after the other

    @property
    def validation(self) -> Validation:
        return Validation.STRICT if self.strict else Validation.RELAXED


@dataclass(frozen=True)
class RaySettings:
    object_store_bytes: int = 100_000_000
    dashboard: bool = True
    node_ip: str = "127.0.0.1"  #: where Ray listens; an address of the network lets other machines join
    head_port: int = 0  #: that they join at; 0: any free one
    autoscaling_config: str = ""  #: the file from which Ray's launcher starts the other machines


@dataclass(frozen=True)
class Settings:
    api: ApiSettings = ApiSettings()
    models: tuple[ModelSettings, ...] = ()
    engine: EngineSettings = EngineSettings()
    vllm: VllmSettings = VllmSettings()
    echo: EchoSettings = EchoSettings()
    intake: IntakeSettings = IntakeSettings()
    scheduler: Policy = field(default_factory=Policy)
    gpu: GpuLimits = field(default_factory=GpuLimits)
    quiet: QuietHours = field(default_factory=QuietHours)
    ray: RaySettings = RaySettings()
    profile: str = "desktop"
    vllm_by_hand: tuple[str, ...] = ()  #: settings of the section ``vllm`` that a file or an option named
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)  #: by model, what `raybatch tune` chose

    def canonical(self) -> dict[str, str]:
        """Every name a request may use for a model, to the model's id."""
        return {name: model.id for model in self.models for name in model.names}

    @property
    def media_domains(self) -> frozenset[str]:
        """Hosts from which some engine may load media: vLLM's own ``allowed_media_domains``."""
        extras = [self.vllm_of(model).extra for model in self.models]
        return frozenset(host for extra in extras for host in extra.get("allowed_media_domains", ()))

    def vllm_of(self, model: ModelSettings) -> VllmSettings:
        """The section ``vllm`` as it holds for ``model``; both their extra arguments apply.

        What was tuned gives way to what was said by hand, of the model or of all.
        """
        tuned = self.tuned.get(model.id, {})
        given = {key: tuned[key] for key in tuned if key not in self.vllm_by_hand} | model.vllm
        own = msgspec.convert(given, VllmSettings)
        extra = {**self.vllm.extra, **own.extra}
        return replace(self.vllm, **{key: getattr(own, key) for key in given} | {"extra": extra})


PACKAGED_MODEL: Final = ModelSettings("HuggingFaceTB/SmolLM2-135M-Instruct", "packaged", ("smollm2",))

PROFILES: Final[dict[str, tuple[str, ...]]] = {
    "desktop": (  # google/gemma-3-4b-it on a card of 16 GB: docs/desktop.md has the arithmetic
        "engine.gpus=1",
        "engine.slots=1",
        "vllm.gpu_memory_utilization=0.85",
        "vllm.max_num_seqs=64",
        "vllm.max_model_len=8192",
        "vllm.max_num_batched_tokens=2048",
    ),
    "cpu": (
        "vllm.max_num_seqs=64",
        "vllm.max_model_len=2048",
        "vllm.enforce_eager=true",
        "vllm.kv_cache_memory_bytes=1073741824",
    ),
    "datacenter": (  # cards of 80 GB and more that nobody looks at: docs/performance.md has the reasons
        "engine.gpus=1",
        "vllm.gpu_memory_utilization=0.92",
        "vllm.max_num_seqs=1024",
        "vllm.max_num_batched_tokens=16384",
    ),
    "test": (
        "vllm.max_num_seqs=32",
        "vllm.max_model_len=1024",
        "vllm.enforce_eager=true",
        "vllm.kv_cache_memory_bytes=536870912",
        "engine.flush_s=0.5",
        "engine.report_s=0.3",
        "ray.dashboard=false",
    ),
}
#: ``api.openai_limits``, as settings: each can be given another value beside it
OPENAI_LIMITS: Final = (
    "scheduler.requests_max=50000",
    "scheduler.batch_bytes_max=209715200",
    "scheduler.embedding_inputs_max=50000",
    "scheduler.keep_files_days=30",
    "scheduler.expire_unfinished=true",
    "intake.strict=true",
)
NO_SECTIONS: Final = ("models", "profile", "vllm_by_hand", "tuned")
SECTIONS: Final = tuple(f.name for f in fields(Settings) if f.name not in NO_SECTIONS)
ENGINE_KINDS: Final = ("vllm", "echo")

_DURATION: Final = re.compile(r"([1-9]\d{0,4})([mhd])")
_UNIT_S: Final = {"m": 60.0, "h": 3_600.0, "d": 86_400.0}

Sections = Mapping[str, Mapping[str, Any]]  #: section, key, value


def make_settings(
    profile: str, assignments: tuple[str, ...] = (), *, sections: Sections | None = None, **top: Any
) -> Settings:
    """``top``, then the profile, then ``sections`` (of a file), then ``assignments``: ``section.key=value``.

    OpenAI's limits, where they are asked for, come right after the profile. Raises OperatorError for what no
    raybatch can run with.
    """
    if profile not in PROFILES:
        raise OperatorError(f"unknown profile '{profile}': choose one of {', '.join(PROFILES)}")
    settings = _settings(replace(Settings(profile=profile), **top), PROFILES[profile], sections, assignments)
    if settings.api.openai_limits:
        presets = (*PROFILES[profile], *OPENAI_LIMITS)
        settings = _settings(replace(Settings(profile=profile), **top), presets, sections, assignments)
    _check(settings)
    return settings


def _settings(
    settings: Settings, presets: tuple[str, ...], sections: Sections | None, assignments: tuple[str, ...]
) -> Settings:
    for assignment in presets:
        settings = _assigned(settings, assignment)
    for name, values in (sections or {}).items():
        settings = replace(settings, **{name: changed(getattr(settings, name), name, values)})
    named = (sections or {}).get("vllm", {})
    return assigned(replace(settings, vllm_by_hand=tuple(sorted(named))), assignments)


def assigned(settings: Settings, assignments: tuple[str, ...]) -> Settings:
    """``settings`` with what each ``section.key=value`` says. Raises OperatorError."""
    for assignment in assignments:
        settings = _assigned(settings, assignment)
    paths = (assignment.partition("=")[0] for assignment in assignments)
    named = {path.removeprefix("vllm.") for path in paths if path.startswith("vllm.")}
    return replace(settings, vllm_by_hand=tuple(sorted({*settings.vllm_by_hand, *named})))


SectionT = TypeVar("SectionT")


def changed(section: SectionT, name: str, values: Mapping[str, Any]) -> SectionT:
    """``section`` with other values for some of its settings. Raises OperatorError; ``name`` is for that."""
    kinds = get_type_hints(type(section))
    for key, value in values.items():
        if key not in kinds:
            raise OperatorError(f"'{name}' has no setting '{key}': it has {', '.join(sorted(kinds))}")
        try:
            section = replace(section, **{key: msgspec.convert(value, kinds[key])})  # type: ignore[type-var]
        except msgspec.ValidationError:
            refused = _takes(f"{name}.{key}", kinds[key], getattr(section, key), value)
            raise OperatorError(refused) from None
    return section


def _assigned(settings: Settings, assignment: str) -> Settings:
    path, equals, text = assignment.partition("=")
    name, dot, key = path.partition(".")
    if not equals or not dot or name not in SECTIONS:
        raise OperatorError(
            f"'{assignment}' is not section.key=value with a section of {', '.join(SECTIONS)}"
        )
    section = getattr(settings, name)
    current = getattr(section, key, None) if key in get_type_hints(type(section)) else None
    return replace(settings, **{name: changed(section, name, {key: _read(text, current)})})


def _read(text: str, current: object) -> Any:
    """As JSON where the setting holds no text; what is no JSON stays text, and is refused as such."""
    if current is None or isinstance(current, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _takes(path: str, kind: Any, current: object, value: object) -> str:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return f"'{path}' takes one of {', '.join(kind)}, not '{value}'"
    shown = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"'{path}' takes a {type(current).__name__} such as {json.dumps(current)}, not '{shown}'"


def _check(settings: Settings) -> None:
    if settings.engine.kind not in ENGINE_KINDS:
        raise OperatorError(
            f"there is no engine '{settings.engine.kind}': choose {' or '.join(ENGINE_KINDS)}"
        )
    if not settings.api.windows_s:
        raise OperatorError('api.completion_windows is empty: every batch names one, "24h" for most clients')
    check_quiet(settings.quiet)
    _check_names(settings.models)


def _duration_s(path: str, text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise OperatorError(f"'{path}' takes durations such as 30m, 24h or 7d, not '{text}'")
    return float(found[1]) * _UNIT_S[found[2]]


def _check_names(models: Iterable[ModelSettings]) -> None:
    """A request names one model."""
    owners: dict[str, str] = {}
    for model in models:
        for name in model.names:
            if not name:
                raise OperatorError(f"model '{model.id}' has an empty name: every id and alias needs letters")
            if name in owners:
                raise OperatorError(
                    f"two models answer to '{name}': {owners[name]} and {model.id};"
                    " give each id and each alias once"
                )
            owners[name] = model.id


@dataclass(frozen=True)
class Home:
    """Where one raybatch keeps everything."""

    root: Path
    settings_path: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings_path", self.root / "settings.json")

    @classmethod
    def find(cls, given: str | None = None) -> Home:
        """``given``, else RAYBATCH_HOME, else ~/.raybatch."""
        return cls(Path(given or os.environ.get("RAYBATCH_HOME") or Path.home() / ".raybatch").resolve())

    @property
    def run(self) -> Path:
        """What is running: cluster.json, the supervisor's lock, generated secrets."""
        return self.root / "run"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def uploads(self) -> Path:
        """Files that come in parts, until they are whole."""
        return self.root / "uploads"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def scratch(self) -> Path:
        return self.root / "tmp"

    def index_path(self, batch_id: str) -> Path:
        return self.root / "batches" / f"{batch_id}.index.parquet"

    def make(self) -> None:
        """Create the directories, private to the owner."""
        for path in (self.root, self.run, self.ledger, self.files, self.models, self.logs, self.scratch):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.uploads.mkdir(exist_ok=True, mode=0o700)
        (self.root / "batches").mkdir(exist_ok=True, mode=0o700)
        (self.root / "results").mkdir(exist_ok=True, mode=0o700)

    def save(self, settings: Settings) -> None:
        temporary = self.settings_path.with_suffix(".new")
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(settings), indent=2))
        temporary.chmod(0o600)
        temporary.replace(self.settings_path)

    def load(self) -> Settings:
        """Raises OperatorError when this home was never started or its settings cannot be read."""
        try:
            return msgspec.json.decode(self.settings_path.read_bytes(), type=Settings)
        except FileNotFoundError:
            raise OperatorError(f"no raybatch at {self.root}: start one with `raybatch up`") from None
        except (msgspec.DecodeError, ValueError) as error:
            raise OperatorError(f"{self.settings_path} cannot be read: {error}") from None
