"""`raybatch up`: start everything and come back, or say that it runs already."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from raybatch.actors.connection import Connection, Json, Unreachable, is_loopback
from raybatch.cli.show import duration, stderr, stdout, table
from raybatch.cli.tuned import with_tuned
from raybatch.config import (
    ENGINE_KINDS,
    PACKAGED_MODEL,
    PROFILES,
    ApiSettings,
    Home,
    ModelSettings,
    Settings,
    make_settings,
)
from raybatch.config_file import NO_FILE, read_config
from raybatch.errors import OperatorError, Refused

if TYPE_CHECKING:
    from raybatch.actors.cluster_facts import ClusterFacts

READY_POLL_S = 0.5


def up(
    ctx: typer.Context,
    engine: Annotated[
        str | None, typer.Option(help="vllm, or echo: no model, answers made up at once.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="ID[=SOURCE]", help="A hub id, or a name and a directory; may be given again."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="127.0.0.1 unless given; others need --api-key.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help=f"{ApiSettings.port} unless given.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(PROFILES)}; default: what the machine is.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML with any settings and models; options win over it."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; may be given again."),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and stop with this process.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Come back when a model is ready.")] = False,
) -> None:
    """Start raybatch: Ray, the API, the scheduler and an engine per model.

    Without options it starts as it last did. What an earlier, dead one left is cleaned first, and unfinished
    batches go on.
    """
    from raybatch.actors import cluster
    from raybatch.actors.cluster_facts import running

    connection = ctx.ensure_object(Connection)
    home = connection.home
    options = (engine, model, host, port, profile, assignments, config)
    if home.settings_path.exists() and not (any(options) or _key_on_command_line(ctx)):
        settings = home.load()
    else:
        settings = wanted_settings(*options, connection.api_key)
    facts = running(home)
    if facts is not None:
        refuse_other_settings(home, settings)
        _say("raybatch is running already")
    elif foreground:
        cluster.up_foreground(home, with_tuned(home, settings, _say))
        return
    else:
        facts = cluster.up(home, with_tuned(home, settings, _say), _say)
    print_where(facts, settings)
    if wait:
        wait_for_model(replace(connection, url=facts.api_url), _say)


def wanted_settings(
    engine: str | None,
    models: list[str] | None,
    host: str | None,
    port: int | None,
    profile: str | None,
    assignments: list[str] | None,
    config: Path | None,
    api_key: str | None,
) -> Settings:
    """The settings the options ask for: they win over the file, it over the profile.

    Raises OperatorError for what cannot be.
    """
    file = NO_FILE if config is None else read_config(config)
    key_sha256 = None if api_key is None else hashlib.sha256(api_key.encode()).hexdigest()
    options = {
        "engine.kind": engine,
        "api.host": host,
        "api.port": port,
        "api.key_sha256": key_sha256,
    }
    given = (f"{name}={value}" for name, value in options.items() if value is not None)
    kind = engine or file.sections.get("engine", {}).get("kind", ENGINE_KINDS[0])
    machine = profile or file.profile or ("desktop" if kind == "vllm" and has_gpu() else "cpu")
    settings = make_settings(
        machine,
        (*given, *(assignments or ())),
        sections=file.sections,
        models=tuple(model_of(word) for word in models or ()) or file.models or (PACKAGED_MODEL,),
    )
    refuse_impossible(settings)
    return settings


def refuse_impossible(settings: Settings) -> None:
    """Raises OperatorError naming what this machine lacks, or what would leave the API open."""
    if settings.engine.kind == "vllm" and settings.engine.gpus > 0 and not has_gpu():
        raise OperatorError(
            f"profile {settings.profile} pins each engine to {settings.engine.gpus:g} GPU, and no NVIDIA"
            " driver with a device was found: take --profile cpu, or --set engine.gpus=0"
        )
    if not is_loopback(settings.api.host) and settings.api.key_sha256 is None:
        raise OperatorError(
            f"--host {settings.api.host} lets other machines in, so it needs a key:"
            " --api-key, or better RAYBATCH_API_KEY"
        )


def has_gpu() -> bool:
    """Whether NVIDIA's driver is here and sees a device; asked without starting any of its tools."""
    import ctypes

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    count = ctypes.c_uint(0)
    return (
        nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 and count.value > 0
    )


def refuse_other_settings(home: Home, wanted: Settings) -> None:
    """Raises OperatorError naming what differs from the settings that run."""
    running = _flat(home.load())
    asked = _flat(wanted)
    differing = [
        f"{name} is {running[name]}, not {asked[name]}" for name in asked if running[name] != asked[name]
    ]
    if differing:
        raise OperatorError(
            f"raybatch is running with other settings ({'; '.join(differing)}): `raybatch down` first"
        )


def print_where(facts: ClusterFacts, settings: Settings) -> None:
    rows = [
        ("API", f"{facts.api_url}/v1"),
        ("dashboard", dashboard(facts)),
        ("home", facts.home),
        ("models", ", ".join(model.id for model in settings.models)),
        ("engine", f"{settings.engine.kind}, profile {settings.profile}"),
    ]
    stdout().print(table(("what", "where"), rows))


def dashboard(facts: ClusterFacts) -> str:
    """Its address, and the file with the token it asks a browser for."""
    if facts.dashboard_url is None:
        return "off"
    return f"{facts.dashboard_url} (token: {Path(facts.home) / 'run' / 'ray_token'})"


def wait_for_model(
    connection: Connection, say: Callable[[str], None], check: Callable[[], None] | None = None
) -> None:
    """Until an engine is ready. Raises OperatorError with its reason when one could not start.

    ``check``: called after each look; what it raises ends the waiting.
    """
    started_mono = time.monotonic()
    said = ""
    while True:
        engines = _engines(connection)
        seen = ", ".join(f"{engine['models'][0]} {engine['phase']}" for engine in engines) or "starting"
        if seen != said:
            say(f"{seen} after {duration(time.monotonic() - started_mono)}")
            said = seen
        if any(engine["phase"] == "ready" for engine in engines):
            return
        broken = next((engine for engine in engines if engine["phase"] == "failed"), None)
        if broken is not None:
            raise OperatorError(f"engine {broken['engine_id']} could not start: {broken['error']}")
        if check is not None:
            check()
        time.sleep(READY_POLL_S)


def _engines(connection: Connection) -> list[Json]:
    """None yet while the scheduler does not answer. Raises OperatorError when nothing runs any more."""
    from raybatch.actors.cluster_facts import running

    try:
        engines: list[Json] = connection.admin("GET", "/admin/overview")["overview"]["engines"]
    except (Unreachable, Refused):
        if running(connection.home) is None:
            raise OperatorError("raybatch has stopped again: `raybatch logs` lists what it wrote") from None
        return []
    return engines


def _say(line: str) -> None:
    stderr().print(line, soft_wrap=True)


def _key_on_command_line(ctx: typer.Context) -> bool:
    """A key in the environment is there for the other commands, too: it asks for no other settings."""
    assert ctx.parent is not None
    source = ctx.parent.get_parameter_source("api_key")
    return source is not None and source.name == "COMMANDLINE"


def model_of(word: str) -> ModelSettings:
    """Of ``ID`` or ``ID=SOURCE``."""
    name, _, source = word.partition("=")
    if not source and name in PACKAGED_MODEL.names:
        return PACKAGED_MODEL
    folder = Path(source)
    return ModelSettings(name, str(folder.resolve()) if source and folder.is_dir() else source)


def _flat(settings: Settings) -> dict[str, object]:
    """``section.key`` to value. What was tuned, and how a value came about, asks for nothing by itself."""
    flat: dict[str, object] = {}
    for name, value in msgspec.to_builtins(replace(settings, tuned={}, vllm_by_hand=())).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat
