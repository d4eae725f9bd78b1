"""A GPU that misbehaves, and what the server makes of it: heat, foreign memory, memory errors, a lost card.

The card is the NVML stand-in of jobs/nvml_standin.py behind the real NVML bindings; everything that reacts to
it is the product. Each scene is written down as a transcript: what the card says, what /health answers,
whether a batch would be taken in, how many rows may be in flight.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx

from jobs.nvml_standin import Card, Held, Scene, write_scene
from jobs.own_cluster import OwnCluster, until
from jobs.trial import ENDPOINT, requests

REACTION_MAX_S: Final = 60.0
REBORN: Final = "reborn"  #: fit, in another life of the engine
STRANGER: Final = Held(pid=1, size_bytes=6 << 30, draws=True)  #: a game, say

NORMAL: Final = Card(memory_used_bytes=1 << 30)  #: an echo engine holds none of it


@dataclass(frozen=True)
class Moment:
    """What was seen once the server had reacted to a card."""

    card: str  #: in words
    status: str  #: of /health
    reasons: tuple[str, ...]
    create: int  #: the HTTP status of creating a batch at that moment
    code: str | None  #: of its refusal
    retry_after_s: int | None
    window: int  #: rows the engine may have in flight
    took_s: float  #: from the card's change to the server's

    def __str__(self) -> str:
        refused = f"{self.create} {self.code}, retry after {self.retry_after_s} s"
        door = "taken" if self.create == 200 else refused
        why = "; ".join(self.reasons) or "nothing to say"
        seen = f"{self.status} after {self.took_s:.1f} s, window {self.window}, create {door}"
        return f"{self.card}: {seen} ({why})"


def play(cluster: OwnCluster, scene_path: Path) -> list[Moment]:
    """On a cluster whose engine is pinned to the stand-in's card. Raises TimeoutError without a reaction."""
    file_id = cluster.post(
        "/v1/files", files={"file": ("small.jsonl", requests(8))}, data={"purpose": "batch"}
    )["id"]
    stage = _Stage(cluster, scene_path, file_id)
    return [
        stage.show("at 60 °C", NORMAL, "fit"),
        stage.show("at 82 °C", replace(NORMAL, temperature_c=82), "strained"),
        stage.show("at 90 °C", replace(NORMAL, temperature_c=90), "unfit"),
        stage.show("cooled to 78 °C only", replace(NORMAL, temperature_c=78), "unfit"),
        stage.show("cooled to 65 °C", replace(NORMAL, temperature_c=65), "fit"),
        stage.show(
            "a stranger holds 6 GiB",
            replace(NORMAL, processes=(STRANGER,), memory_used_bytes=7 << 30),
            "unfit",
        ),
        stage.show("the stranger has gone", NORMAL, "fit"),
        stage.show("an uncorrectable memory error", replace(NORMAL, ecc_uncorrected=1), REBORN),
        stage.show("fallen off the bus (XID 79)", replace(NORMAL, ecc_uncorrected=1, status=15), "unfit"),
        stage.show("back after a reset", replace(NORMAL, ecc_uncorrected=1), "fit"),
    ]


class _Stage:
    def __init__(self, cluster: OwnCluster, scene_path: Path, file_id: str) -> None:
        self._cluster = cluster
        self._scene_path = scene_path
        self._file_id = file_id

    def show(self, words: str, card: Card, expected: str) -> Moment:
        """Change the card, wait until the server says what is expected of it, and write down what it says."""
        before = self._cluster.pids("engine")
        write_scene(self._scene_path, Scene((card,)))
        changed_mono = time.monotonic()

        def reacted() -> bool:
            engine = self._engine()
            if not engine:
                return False
            if expected == REBORN and self._cluster.pids("engine") in ([], before):
                return False
            fitness = "fit" if expected == REBORN else expected
            ready = expected == "unfit" or engine["phase"] == "ready"
            return bool(engine["verdict"]["fitness"] == fitness and ready and _shows(engine, card))

        until(reacted, REACTION_MAX_S, f"no reaction to a card that is {words}: {self._health()}")
        return self._moment(words, time.monotonic() - changed_mono)

    def _moment(self, words: str, took_s: float) -> Moment:
        health = self._health()
        asked = {"input_file_id": self._file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
        answer = httpx.post(f"{self._cluster.url}/v1/batches", json=asked, timeout=30.0)
        after = answer.headers.get("retry-after")
        return Moment(
            card=words,
            status=health["status"],
            reasons=tuple(health["reasons"]),
            create=answer.status_code,
            code=answer.json().get("error", {}).get("code"),
            retry_after_s=None if after is None else int(after),
            window=self._engine().get("window", 0),
            took_s=took_s,
        )

    def _health(self) -> dict[str, Any]:
        """Also while it answers 503."""
        try:
            health: dict[str, Any] = httpx.get(f"{self._cluster.url}/health", timeout=30.0).json()
        except httpx.HTTPError:
            return {}
        return health

    def _engine(self) -> dict[str, Any]:
        engines: list[dict[str, Any]] = self._health().get("engines") or [{}]
        return engines[0]


def _shows(engine: dict[str, Any], card: Card) -> bool:
    """The engine's last report has this card's figures."""
    if card.status:
        return any(gpu["lost"] for gpu in engine["gpus"])
    figures = [(gpu["temperature_c"], gpu["ecc_uncorrected"], gpu["lost"]) for gpu in engine["gpus"]]
    return figures == [(card.temperature_c, card.ecc_uncorrected, None)]
