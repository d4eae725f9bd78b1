"""A raybatch of its own on the echo engine: no model, known answers, a speed to choose."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jobs.own_cluster import OwnCluster, until
from raybatch.actors.ports import free_ports
from raybatch.config import Home, ModelSettings, make_settings

__all__ = ["MODEL", "EchoCluster", "echo_cluster", "make_cluster", "pace_of", "until"]

MODEL: Final = "echo"
TOKENS_PER_ROW: Final = 4  #: words of an answer such as "echo: hello number 7"
STEP_MS: Final = 20.0


class EchoCluster(OwnCluster):
    """Says ``echo: <what the user said>`` to every chat request."""


@contextmanager
def echo_cluster(*assignments: str, rows_per_s: float | None = None) -> Iterator[EchoCluster]:
    """One that is up, until the block ends. ``rows_per_s``: how fast an engine is, else as fast as it can."""
    made = make_cluster(*assignments, rows_per_s=rows_per_s)
    try:
        made.up()
        yield made
    finally:
        made.close()


def make_cluster(
    *assignments: str,
    rows_per_s: float | None = None,
    models: tuple[ModelSettings, ...] = (ModelSettings(MODEL),),
) -> EchoCluster:
    """Not started yet."""
    home = Home(Path(tempfile.mkdtemp(prefix="raybatch-")))
    pace = () if rows_per_s is None else pace_of(rows_per_s)
    port = f"api.port={free_ports(1)[0]}"
    settings = make_settings("test", ("engine.kind=echo", port, *pace, *assignments), models=models)
    return EchoCluster(home, settings)


def pace_of(rows_per_s: float) -> tuple[str, ...]:
    """Settings of an echo engine that answers about so many rows of ``requests`` a second."""
    concurrency = max(1, round(rows_per_s * TOKENS_PER_ROW * STEP_MS / 1000))
    return (f"echo.alpha_ms={STEP_MS}", f"echo.concurrency={concurrency}")
