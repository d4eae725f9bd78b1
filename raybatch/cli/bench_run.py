"""One run of a prescribed shape through a raybatch that is started for it, and what was seen meanwhile.

It stops nothing: whoever asks for it does, however it ends.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from raybatch.actors.connection import Connection, Json
from raybatch.actors.submission import create
from raybatch.cli.bench_figures import Figures, Finish, Sample
from raybatch.cli.bench_rows import ENDPOINT, Shape, lines
from raybatch.cli.demo import Steps, completed
from raybatch.cli.progress import follow
from raybatch.cli.sql import ask
from raybatch.cli.up import wait_for_model
from raybatch.errors import OperatorError, RaybatchError

if TYPE_CHECKING:
    from raybatch.config import Home, ModelSettings, Settings

SAMPLE_S: Final = 1.0
ROLES: Final = ("engine", "engine-child", "scheduler", "replica")
FINISHES_SQL: Final = """
SELECT epoch_us(started_at) / 1e6 AS started_at, epoch_us(finished_at) / 1e6 AS finished_at,
    prompt_tokens, completion_tokens
FROM results WHERE status_code = 200 ORDER BY finished_at"""


def measured(
    home: Home,
    settings: Settings,
    model: ModelSettings,
    shape: Shape,
    steps: Steps,
    warm: Shape | None = None,
) -> Figures:
    """``warm``: rows that run before those that are measured, with other prompts.

    Raises OperatorError when nothing starts, the engine cannot load or dies, or the batch does not complete.
    """
    from raybatch.actors import cluster

    with steps.step("Start Ray, the scheduler and the API"):
        facts = cluster.up(home, settings, steps.say)
    with closing(Connection(home, facts.api_url, None)) as connection:
        lives = _Lives(connection)
        with steps.step(f"Load {model.id}"):
            wait_for_model(connection, steps.say, lives.check)
        if warm is not None:
            with steps.step(f"Warm up with {warm.rows:,} rows"):
                _ran(connection, model, warm, steps, lives, seed=1)
        with steps.step(f"Run {shape.rows:,} rows"), _sampled(connection) as looks:
            batch_id = _ran(connection, model, shape, steps, lives)
        return _figures(connection, batch_id, looks)


class _Lives:
    """What a run came to says nothing once its engine was started again."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pids: dict[str, int] = {}

    def check(self) -> None:
        """Raises OperatorError when an engine is another process than before."""
        engines: list[Json] = []
        with suppress(RaybatchError):
            engines = self._connection.admin("GET", "/admin/overview")["overview"]["engines"]
        for engine in engines:
            engine_id, pid = engine["engine_id"], engine["pid"]
            if self._pids.setdefault(engine_id, pid) != pid:
                raise OperatorError(
                    f"engine {engine_id} died and was started again: see"
                    f" `raybatch logs engine --home {self._connection.home.root}`"
                )


def _ran(
    connection: Connection, model: ModelSettings, shape: Shape, steps: Steps, lives: _Lives, seed: int = 0
) -> str:
    """The batch's id, once it has completed."""
    path = connection.home.scratch / f"bench-{seed}.jsonl"
    with path.open("wb") as file:
        file.writelines(line + b"\n" for line in lines(shape, model.id, seed))
    batch_id = create(connection, path, path.name, ENDPOINT, {"made_by": "raybatch bench"})
    completed(follow(connection, batch_id, steps.console, lives.check), steps)
    return batch_id


def _figures(connection: Connection, batch_id: str, looks: list[tuple[float, Sample]]) -> Figures:
    found = cast(list[tuple[Any, ...]], ask(connection, FINISHES_SQL, batch_id).rows)
    if not found:
        raise OperatorError(f"no row of {batch_id} was answered: see `raybatch failed {batch_id}`")
    began_at = min(started_at for started_at, *_ in found)
    return Figures(
        tuple(
            Finish(started_at - began_at, finished_at - began_at, *tokens)
            for started_at, finished_at, *tokens in found
        ),
        tuple(replace(one, at_s=at - began_at) for at, one in looks),
    )


@contextmanager
def _sampled(connection: Connection) -> Iterator[list[tuple[float, Sample]]]:
    """What a look every second found, and when; one at the start and one at the end at least."""
    looks: list[tuple[float, Sample]] = []
    over = threading.Event()

    def look() -> None:
        with suppress(RaybatchError):
            looks.append((time.time(), _sample(connection)))

    def keep_looking() -> None:
        while not over.wait(SAMPLE_S):
            look()

    look()
    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        yield looks
    finally:
        over.set()
        thread.join()
        look()


def _sample(connection: Connection) -> Sample:
    """Memory of the home's processes, and what its engines say of their cards. ``at_s`` is left at 0."""
    from raybatch.actors.cluster_facts import processes

    rss_bytes: Counter[str] = Counter()
    for process in processes(connection.home):
        if process.role in ROLES:
            rss_bytes[process.role] += process.rss_bytes
    engines: list[Json] = connection.admin("GET", "/admin/overview")["overview"]["engines"]
    cards = [card for engine in engines for card in engine["gpus"]]
    if not cards:
        return Sample(0.0, dict(rss_bytes))
    return Sample(
        0.0,
        dict(rss_bytes),
        sum(card["memory_used_bytes"] for card in cards),
        max(card["temperature_c"] for card in cards),
        sum(card["power_w"] for card in cards),
    )
