"""`raybatch status`: one screen that says what runs, how fast, and as which processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from raybatch.cli.connection import Connection, Json
from raybatch.cli.show import duration, one_line, print_json, size, stdout, table
from raybatch.cli.up import dashboard
from raybatch.errors import RaybatchError

if TYPE_CHECKING:
    from raybatch.actors.cluster_facts import ClusterFacts, ProcessFacts

STOPPED_EXIT = 3  #: as init scripts say it
REFRESH_S = 2.0
COMMAND_SHOWN_MAX = 60


@dataclass(frozen=True)
class Sighting:
    """What one look found."""

    cluster: ClusterFacts | None
    overview: Json | None  #: None while the scheduler does not answer
    reason: str  #: why it does not
    processes: Sequence[ProcessFacts]

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
    connection = Connection.of(ctx)
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
    overview, reason = None, ""
    if facts is not None:
        try:
            overview = connection.admin("GET", "/admin/overview")["overview"]
        except RaybatchError as error:
            reason = error.message
    return Sighting(facts, overview, reason, processes(connection.home))


def as_plain(seen: Sighting) -> Json:
    return {
        "phase": seen.phase,
        "cluster": asdict(seen.cluster) if seen.cluster else None,
        "overview": seen.overview,
        "processes": [asdict(process) for process in seen.processes],
    }


def screen(seen: Sighting) -> RenderableType:
    blocks: list[RenderableType] = [Text(_headline(seen), style="bold")]
    if seen.cluster is not None:
        blocks += [Text(line) for line in _cluster_lines(seen.cluster, seen.reason)]
    if seen.overview is not None:
        blocks += ["", _engines(seen.overview), "", *_batches(seen.overview)]
    if seen.processes:
        blocks += ["", _processes(seen.processes)]
    return Group(*blocks)


def _watch(connection: Connection) -> None:
    console = stdout()
    while not console.is_terminal:  # one screen after the other: a log
        console.print(screen(sight(connection)))
        time.sleep(REFRESH_S)
    with Live(screen(sight(connection)), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(REFRESH_S)
            live.update(screen(sight(connection)), refresh=True)


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


def _engines(overview: Json) -> RenderableType:
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
        "error",
    )
    return table(columns, [_engine_row(engine) for engine in overview["engines"]], title="engines")


def _engine_row(engine: Json) -> tuple[object, ...]:
    return (
        engine["engine_id"],
        ", ".join(engine["models"]),
        "lost" if engine["lost"] else engine["phase"],
        f"{engine['silent_s']:.0f} s ago",
        engine["running"],
        engine["window"],
        engine["held_rows"],
        round(engine["rows_per_s"], 1),
        round(engine["tokens_per_s"]),
        one_line(engine["error"] or "", COMMAND_SHOWN_MAX),
    )


def _batches(overview: Json) -> list[RenderableType]:
    counted = ", ".join(f"{count:,} {name}" for name, count in overview["batches"].items() if count)
    return [
        Text("batches", style="bold"),
        Text(f"{counted or 'none yet'}; {overview['queued_rows']:,} rows to go"),
    ]


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
