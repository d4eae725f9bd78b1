"""`raybatch status`: one screen that says what runs, how fast, and as which processes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from raybatch.actors.connection import Connection, Json
from raybatch.cli.show import duration, one_line, print_json, printable, size, stdout, table
from raybatch.cli.up import dashboard
from raybatch.core.model import TERMINAL, BatchStatus
from raybatch.errors import RaybatchError

if TYPE_CHECKING:
    from raybatch.actors.cluster_facts import ClusterFacts, ProcessFacts

STOPPED_EXIT = 3  #: as init scripts say it
REFRESH_S = 2.0
COMMAND_SHOWN_MAX = 60
BATCHES_LOOKED_AT_MAX = 100  #: of the newest; what is older and still active is only counted
FAILED_SHARE_MAX = 0.05  #: of a batch's finished rows; beyond it is an alert
FAILED_ROWS_MIN = 20  #: before that a share says little


@dataclass(frozen=True)
class Sighting:
    """What one look found."""

    cluster: ClusterFacts | None
    overview: Json | None  #: None while the scheduler does not answer
    health: Json | None  #: as ``/health`` shows it
    reason: str  #: why it does not
    processes: Sequence[ProcessFacts]
    batches: Sequence[Json]  #: active ones as ``/v1/batches`` shows them, oldest first

    @property
    def phase(self) -> str:
        return self.cluster.phase if self.cluster else "stopped"


def status(
    ctx: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every two seconds until interrupted.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, processes included.")] = False,
) -> None:
    """Show the cluster, its engines, its batches and every process. Exit status 3 when nothing runs."""
    connection = ctx.ensure_object(Connection)
    if watch:
        _watch(connection)
    seen = sight(connection)
    if as_json:
        print_json(as_plain(seen))
    else:
        stdout().print(screen(seen))
    if seen.cluster is None:
        raise typer.Exit(STOPPED_EXIT)
    if seen.phase == "failed":
        raise typer.Exit(1)


def sight(connection: Connection) -> Sighting:
    from raybatch.actors.cluster_facts import processes, running

    facts = running(connection.home)
    seen: Json = {}
    reason = ""
    if facts is not None:
        try:
            seen = connection.admin("GET", "/admin/overview")
        except RaybatchError as error:
            reason = error.message
    batches = _active_batches(connection) if seen else []
    shown = seen.get("overview"), seen.get("health")
    return Sighting(facts, *shown, reason, processes(connection.home), batches)


def _active_batches(connection: Connection) -> list[Json]:
    """None where the API wants a key that was not given: the rest of the screen is worth seeing."""
    try:
        page = connection.get("/v1/batches", limit=BATCHES_LOOKED_AT_MAX)
    except RaybatchError:
        return []
    return [batch for batch in reversed(page["data"]) if batch["status"] not in TERMINAL]


def as_plain(seen: Sighting) -> Json:
    return {
        "phase": seen.phase,
        "cluster": asdict(seen.cluster) if seen.cluster else None,
        "overview": seen.overview,
        "health": seen.health,
        "batches": list(seen.batches),
        "processes": [asdict(process) for process in seen.processes],
    }


def screen(seen: Sighting, *, with_processes: bool = True) -> RenderableType:
    blocks: list[RenderableType] = [Text(_headline(seen), style="bold")]
    if seen.cluster is not None:
        blocks += [Text(line) for line in _cluster_lines(seen.cluster, seen.reason)]
    if seen.health is not None:
        blocks += [Text(line) for line in _health_lines(seen.health)]
        blocks += [Text(f"alert      {words}", style="bold red") for words in alerts(seen.batches)]
        blocks += ["", *_tables(seen.health), "", *_batches(seen.health["queue"], seen.batches)]
    if seen.processes and with_processes:
        blocks += ["", _processes(seen.processes)]
    return Group(*blocks)


def _watch(connection: Connection) -> None:
    console = stdout()
    while not console.is_terminal:  # one screen after the other: a log
        console.print(screen(sight(connection)))
        time.sleep(REFRESH_S)
    first = screen(sight(connection), with_processes=False)
    with Live(first, console=console, screen=True, auto_refresh=False) as live:
        live.refresh()
        while True:
            time.sleep(REFRESH_S)
            live.update(screen(sight(connection), with_processes=False), refresh=True)


def _headline(seen: Sighting) -> str:
    if seen.cluster is None:
        return "raybatch: stopped"
    since = f" for {duration(time.time() - seen.cluster.started_at)}"
    state = f", {seen.overview['state']}" if seen.overview else ""
    message = f" ({seen.cluster.message})" if seen.phase != "ready" else ""
    return f"raybatch: {seen.phase}{state}{since}{message}"


def _cluster_lines(cluster: ClusterFacts, reason: str) -> list[str]:
    return [
        f"API        {cluster.api_url}/v1",
        f"dashboard  {dashboard(cluster)}",
        f"home       {cluster.home}",
        *([f"scheduler  does not answer: {reason}"] if reason else []),
    ]


def _health_lines(health: Json) -> list[str]:
    """The verdict, and what is out of the ordinary."""
    quiet = {"pause": "no row is started", "gentle": "engines keep to a small window"}
    free_bytes = health["disk_free_bytes"]
    return [
        f"health     {health['status']}",
        *(f"           {printable(reason)}" for reason in health["reasons"]),
        *(["paused     everything; `raybatch resume` goes on"] if health["paused"] else []),
        *([f"quiet      {quiet[health['quiet']]} in these hours"] if health["quiet"] else []),
        *([f"disk free  {size(free_bytes)}"] if free_bytes is not None else []),
    ]


def _tables(health: Json) -> Iterator[RenderableType]:
    yield _engines(health["engines"])
    gpus = [_gpu_row(engine, gpu) for engine in health["engines"] for gpu in engine["gpus"]]
    if gpus:
        yield ""
        yield table(
            ("gpu", "engine", "ours", "others", "total", "°C", "power", "use", "verdict"), gpus, title="GPUs"
        )
    yield ""
    yield table(
        ("model", "state", "rows waiting", "rows/s", "tokens/s", "error"),
        [_model_row(model) for model in health["models"]],
        title="models",
    )


def _engines(engines: Sequence[Json]) -> RenderableType:
    columns = (
        "engine",
        "models",
        "phase",
        "heard",
        "running",
        "window",
        "rows held",
        "rows/s",
        "tokens/s",
        "batches",
        "error",
    )
    return table(columns, [_engine_row(engine) for engine in engines], title="engines")


def _engine_row(engine: Json) -> tuple[object, ...]:
    return (
        engine["id"],
        ", ".join(engine["models"]),
        engine["phase"],
        f"{engine['heartbeat_age_s']:.0f} s ago",
        engine["running"],
        engine["window"],
        engine["held_rows"],
        round(engine["rows_per_s"], 1),
        round(engine["tokens_per_s"]),
        " ".join(engine["batches"]),
        one_line(engine["error"] or "", COMMAND_SHOWN_MAX),
    )


def _gpu_row(engine: Json, gpu: Json) -> tuple[object, ...]:
    own_bytes = gpu["memory_used_bytes"] - gpu["memory_others_bytes"]
    share = engine["verdict"]["window_share"]
    verdict = gpu["lost"] or engine["verdict"]["fitness"]
    return (
        f"{gpu['index']} {gpu['name']}".strip(),
        engine["id"],
        size(own_bytes),
        size(gpu["memory_others_bytes"]),
        size(gpu["memory_total_bytes"]),
        gpu["temperature_c"],
        f"{gpu['power_w']:.0f} of {gpu['power_limit_w']:.0f} W",
        f"{gpu['utilization']:.0%}",
        verdict if share in (0.0, 1.0) else f"{verdict}, {share:.0%} of the window",
    )


def _model_row(model: Json) -> tuple[object, ...]:
    return (
        model["id"],
        model["state"],
        model["queued_rows"],
        model["rows_per_s"],
        model["tokens_per_s"],
        one_line(model["error"] or "", COMMAND_SHOWN_MAX),
    )


def alerts(batches: Sequence[Json]) -> Iterator[str]:
    """What is likely to go wrong with them, in words; what is wrong with the server is in its health."""
    for batch in batches:
        eta, counts = batch["raybatch"].get("eta"), batch["request_counts"]
        finished = counts["completed"] + counts["failed"]
        if eta is not None and batch.get("expires_at") and eta["p50_at"] > batch["expires_at"]:
            late = duration(eta["p50_at"] - batch["expires_at"])
            yield f"{batch['id']} will end {late} after its window at this pace; --priority may help the next"
        if counts["failed"] >= max(FAILED_ROWS_MIN, FAILED_SHARE_MAX * finished):
            share = counts["failed"] / finished
            yield f"{share:.0%} of what {batch['id']} has finished failed: `raybatch failed {batch['id']}`"


def _batches(queue: Json, active: Sequence[Json]) -> Iterator[RenderableType]:
    counted = ", ".join(f"{count:,} {name}" for name, count in queue["batches"].items() if count)
    yield Text("batches", style="bold")
    yield Text(f"{counted or 'none yet'}; {queue['rows']:,} rows to go")
    if active:
        columns = (
            "batch",
            "status",
            "model",
            "done",
            "failed",
            "of",
            "rows/s",
            "tokens/s",
            "left",
            "at most",
        )
        yield table(columns, [_batch_row(batch) for batch in active])


def _batch_row(batch: Json) -> tuple[object, ...]:
    counts, ours = batch["request_counts"], batch["raybatch"]
    eta = ours.get("eta") or {}
    running = batch["status"] == BatchStatus.IN_PROGRESS
    return (
        batch["id"],
        "paused" if ours["paused"] else batch["status"],
        batch.get("model") or "",
        counts["completed"],
        counts["failed"],
        counts["total"],
        round(ours["rows_per_s"], 1) if running else None,
        round(ours["tokens_per_s"]) if running else None,
        duration(eta.get("p50_s")),
        duration(eta.get("p90_s")),
    )


def _processes(processes: Sequence[ProcessFacts]) -> RenderableType:
    rows = [
        (
            str(process.pid),
            process.role,
            size(process.rss_bytes),
            one_line(process.command, COMMAND_SHOWN_MAX),
        )
        for process in processes
    ]
    rows.append(("", "all", size(sum(process.rss_bytes for process in processes)), ""))
    return table(("pid", "role", "memory", "command"), rows, title="processes")
