"""`raybatch demo`: the whole way once, from nothing running to scored answers, with a real model.

It stops what it started, however it ends, and keeps the files, so that a second run needs no conversion.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from raybatch.actors.connection import Connection, Json
from raybatch.actors.submission import create
from raybatch.cli.progress import ending, follow
from raybatch.cli.show import one_line, size, stdout, table
from raybatch.cli.sql import ask, print_answer
from raybatch.cli.submit import print_errors
from raybatch.cli.up import dashboard, has_gpu, print_where, wait_for_model
from raybatch.config import PACKAGED_MODEL, ApiSettings, Home, make_settings
from raybatch.core.model import BatchStatus
from raybatch.errors import OperatorError, RaybatchError

if TYPE_CHECKING:
    from raybatch.actors.cluster_facts import ClusterFacts
    from raybatch.config import Settings

SCORE_RATIO_MIN = 3.0  #: real answers against the answers of other questions
SHOWN_ANSWERS = 6

ANSWERS_SQL = f"""\
SELECT q.body->>'$.messages[#-1].content' AS question, r.text AS answer,
       q.body->>'$.metadata.answer' AS expected
FROM results r JOIN requests q USING (batch_id, index)
ORDER BY index LIMIT {SHOWN_ANSWERS}
"""


@dataclass(frozen=True)
class Score:
    rows: int
    score: float
    permuted: float

    @property
    def telling(self) -> bool:
        """Whether the answers answer their own questions."""
        return self.score > 0 and self.score >= SCORE_RATIO_MIN * self.permuted


class Steps:
    """Numbered titles, each followed by the seconds it took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._number = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self._number += 1
        started_mono = time.monotonic()
        self.console.print(f"\n{self._number}. {title}", style="bold")
        yield
        self.console.print(f"   {time.monotonic() - started_mono:.1f} s", style="dim")

    def say(self, line: str) -> None:
        self.console.print(f"   {line}", soft_wrap=True)


def demo(
    ctx: typer.Context,
    rows: Annotated[int, typer.Option(min=12, help="How many questions.")] = 512,
) -> None:
    """Start raybatch with a small model, run a batch of questions, score the answers, stop again."""
    steps = Steps(stdout())
    try:
        with ended_by_signals():
            score = _run(own_home(ctx.parent.params.get("home") if ctx.parent else None, "demo"), rows, steps)
    except RaybatchError as error:
        typer.echo(f"demo: FAILED {error.message}")
        raise typer.Exit(1) from None
    verdict = "OK" if score.rows == rows and score.telling else "FAILED"
    typer.echo(f"demo: {verdict} rows={score.rows} score={score.score} permuted={score.permuted}")
    if verdict != "OK":
        typer.echo(
            f"expected rows={rows} and a score of at least {SCORE_RATIO_MIN:.0f} times permuted", err=True
        )
        raise typer.Exit(1)


def _run(home: Home, rows: int, steps: Steps) -> Score:
    from raybatch.engine.packaged_model import prepare_packaged_model

    with steps.step("Prepare the model that comes as a Python package (converted once, then kept)"):
        steps.say(str(prepare_packaged_model(home.models)))
    with stopped_afterwards(home, steps):
        return _serve_and_score(home, rows, steps)


def _serve_and_score(home: Home, rows: int, steps: Steps) -> Score:
    from raybatch.actors import cluster

    settings = demo_settings()
    with steps.step("Start Ray, the scheduler and the API"):
        facts = cluster.up(home, settings, steps.say)
        print_where(facts, settings)
    connection = Connection(home, facts.api_url, None)
    with steps.step("Load the model"):
        wait_for_model(connection, steps.say)
    with steps.step(f"Write {rows} questions"):
        path = write_questions(home, rows)
        steps.say(f"{path}, {size(path.stat().st_size)}")
    with steps.step("Upload them and create the batch, with the stock `openai` client"):
        batch_id = create(connection, path, path.name, "/v1/chat/completions", {"made_by": "raybatch demo"})
        steps.say(batch_id)
    with steps.step("Run"):
        batch = completed(follow(connection, batch_id, steps.console), steps)
    with steps.step("Download the output file, with the stock client"):
        lines = download(connection, batch)
        steps.say(f"{lines} lines")
    with steps.step("Read the Parquet files with SQL, as `raybatch sql` does"):
        score = asked(connection, batch_id, steps)
    show_where(home, batch_id, facts, steps)
    return replace(score, rows=min(score.rows, lines))


def own_home(given: str | None, purpose: str) -> Home:
    """The one given, else one below the cache folder. Raises OperatorError when it is somebody's own.

    ``purpose``: "demo", say, which marks the home and names the folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Home.find(given or str(Path(cache) / f"raybatch-{purpose}"))
    marker = home.root / purpose
    if home.settings_path.exists() and not marker.exists():
        raise OperatorError(
            f"{home.root} has settings of its own, which a {purpose} would replace: give it another --home"
        )
    from raybatch.actors import cluster
    from raybatch.actors.cluster_facts import running

    facts = running(home)
    if facts is not None and _lives(marker):
        raise OperatorError(f"a {purpose} is running at {home.root} already (process {facts.supervisor_pid})")
    if facts is not None:
        typer.echo(f"An earlier {purpose} died and left its cluster running; stopping that first.")
        cluster.down(home, now=True, say=typer.echo)
    home.make()
    marker.write_text(_identity(os.getpid()))
    return home


def _lives(marker: Path) -> bool:
    """Whether the program that wrote the marker still runs."""
    identity = marker.read_text()
    return bool(identity) and _identity(int(identity.split()[0])) == identity


def _identity(pid: int) -> str:
    """A process id and when it started; empty when there is no such process."""
    import psutil

    try:
        return f"{pid} {psutil.Process(pid).create_time()}"
    except psutil.NoSuchProcess:
        return ""


def demo_settings() -> Settings:
    return make_settings("desktop" if has_gpu() else "cpu", models=(PACKAGED_MODEL,), api=free_address())


def free_address() -> ApiSettings:
    """The usual port, or another one when somebody has that."""
    from raybatch.actors.ports import check_free, free_ports

    usual = ApiSettings()
    try:
        check_free(usual.host, usual.port)
    except OperatorError:
        return replace(usual, port=free_ports(1)[0])
    return usual


def write_questions(home: Home, rows: int) -> Path:
    from raybatch.cli.demo_questions import questions

    path = home.scratch / "questions.jsonl"
    with path.open("wb") as file:
        file.writelines(line + b"\n" for line in questions(rows, PACKAGED_MODEL.id))
    return path


def completed(batch: Json, steps: Steps) -> Json:
    if batch["status"] == BatchStatus.FAILED:
        print_errors(batch, steps.console)
    if batch["status"] != BatchStatus.COMPLETED:
        raise OperatorError(f"the batch ended as {batch['status']}")
    steps.say(ending(batch))
    return batch


def download(connection: Connection, batch: Json) -> int:
    """How many lines the output file has."""
    if batch["output_file_id"] is None:
        return 0
    with connection.stock_client() as client:
        return sum(1 for _ in client.files.content(batch["output_file_id"]).iter_lines())


def asked(connection: Connection, batch_id: str, steps: Steps) -> Score:
    from raybatch.cli.demo_questions import SCORE_SQL

    for question, answer, expected in ask(connection, ANSWERS_SQL, batch_id).rows:
        shown = (one_line(str(text), 70) for text in (question, answer, expected))
        steps.say("{} → {} → expected {}".format(*shown))
    steps.console.print(f"\n{SCORE_SQL}", soft_wrap=True, style="cyan")
    scored = ask(connection, SCORE_SQL, batch_id)
    print_answer(scored)
    return score_of(scored.columns, scored.rows)


def score_of(columns: list[str], rows: list[tuple[Any, ...]]) -> Score:
    """The line over all kinds."""
    for row in rows:
        named = dict(zip(columns, row, strict=True))
        if named["kind"] == "all":
            return Score(named["rows"], named["score"] or 0.0, named["permuted_score"] or 0.0)
    return Score(0, 0.0, 0.0)


def show_where(home: Home, batch_id: str, facts: ClusterFacts, steps: Steps) -> None:
    folder = home.root / "results" / f"batch_id={batch_id}"
    parts = list(folder.glob("*.parquet"))
    rows = [
        ("API", f"{facts.api_url}/v1 (OpenAI's Files and Batches)"),
        ("Ray dashboard", dashboard(facts)),
        (
            "results",
            f"{folder} ({len(parts)} Parquet files, {size(sum(part.stat().st_size for part in parts))})",
        ),
        ("start it again", f"raybatch --home {home.root} up"),
    ]
    steps.console.print()
    steps.console.print(table(("what", "where it was served"), rows))


@contextmanager
def stopped_afterwards(home: Home, steps: Steps) -> Iterator[None]:
    """Whatever happens inside, nothing of this home's runs afterwards. The files stay."""
    from raybatch.actors import cluster

    try:
        yield
    finally:
        steps.console.print(f"\nStopping what was started; its files stay at {home.root}", soft_wrap=True)
        with _undisturbed():
            cluster.down(home, True, steps.say)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program the way an exception does, so that what was started is stopped."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not leave processes behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
