"""P6: how long a large upload takes to become a batch that runs, beside one pass of ``json.loads`` over it.

On the echo engine. The same file goes both ways in each round, every second round in reverse.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from openai import OpenAI

from jobs.echo_cluster import EchoCluster, until
from jobs.memory import MIB, sampled
from jobs.runs import Ratio
from jobs.trial import ENDPOINT, request
from raybatch.core.model import TERMINAL

LOOK_S: Final = 0.25  #: looking takes part in the race; the ledger knows the instants better
VALIDATED_MAX_S: Final = 600.0
LINES_MIN: Final = 100
ROLES: Final = ("scheduler", "replica", "chore")
WORDS: Final = 'the quick brown fox jumps over the lazy dog and says "so it goes", naïvely: '

Say = Callable[[str], None]


@dataclass(frozen=True)
class Round:
    number: int
    lines: int
    size_bytes: int
    loads_s: float  #: one ``json.loads`` of every line
    upload_s: float  #: from the first byte to the answer
    validate_s: float  #: from the batch's creation until it runs

    @property
    def whole(self) -> float:
        """First byte to ``in_progress`` ÷ ``json.loads``."""
        return (self.upload_s + self.validate_s) / self.loads_s

    @property
    def validation(self) -> float:
        return self.validate_s / self.loads_s


def measure(
    cluster: EchoCluster, lines: int, line_bytes: int, rounds: int, say: Say
) -> tuple[list[Round], dict[str, int]]:
    """And by how many bytes each role's peak PSS is above that of a few lines, in a round of its own.

    Raises AssertionError when a batch is not taken in whole.
    """
    done = []
    with tempfile.TemporaryDirectory(prefix="raybatch-intake-", dir=cluster.home.root) as folder:
        path = Path(folder) / "requests.jsonl"
        _write(path, LINES_MIN, line_bytes)
        with sampled(cluster.home) as small:
            _take_in(cluster, path, LINES_MIN)
        _write(path, lines, line_bytes)
        for number in range(rounds):
            loads_s = _loads_s(path) if number % 2 else None
            upload_s, validate_s = _take_in(cluster, path, lines)
            loads_s = loads_s or _loads_s(path)
            done.append(Round(number, lines, path.stat().st_size, loads_s, upload_s, validate_s))
            say(f"round {number + 1}: whole {done[-1].whole:.2f}, validation {done[-1].validation:.2f}")
        with sampled(cluster.home) as large:
            _take_in(cluster, path, lines)
    growth = {str(role): large[role].pss_bytes - small[role].pss_bytes for role in ROLES if role in small}
    return done, growth


def report(rounds: list[Round], growth_bytes: dict[str, int]) -> dict[str, Any]:
    """As it is written to JSON."""
    return {
        "metric": "P6 intake: first byte to in_progress, and create to in_progress, ÷ one json.loads pass",
        "ratio": {
            "whole": Ratio.of([round_.whole for round_ in rounds]),
            "validation": Ratio.of([round_.validation for round_ in rounds]),
        },
        "growth_mib": {role: round(grown / MIB) for role, grown in growth_bytes.items()},
        "runs": [
            asdict(round_) | {"whole": round_.whole, "validation": round_.validation} for round_ in rounds
        ],
    }


def _write(path: Path, lines: int, line_bytes: int) -> None:
    text = WORDS * (line_bytes // len(WORDS) + 1)
    room = max(0, line_bytes - len(json.dumps(request("r0000000", ""))))
    with path.open("w") as file:
        for number in range(lines):
            told = f"{number} {text}"[:room]
            file.write(json.dumps(request(f"r{number}", told), ensure_ascii=False) + "\n")


def _loads_s(path: Path) -> float:
    started_mono = time.monotonic()
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
    return time.monotonic() - started_mono


def _take_in(cluster: EchoCluster, path: Path, lines: int) -> tuple[float, float]:
    """Seconds of upload and validation."""
    started_mono = time.monotonic()
    file_id = _upload(cluster, path)
    upload_s = time.monotonic() - started_mono
    asked = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    batch_id = cluster.post("/v1/batches", json=asked)["id"]
    until(lambda: _status(cluster, batch_id) != "validating", VALIDATED_MAX_S, "still validating", LOOK_S)
    batch = cluster.batch(batch_id)
    assert batch.in_progress_at is not None, batch.errors
    assert batch.total == lines, f"{batch.total} of {lines} lines were taken in"
    _forget(cluster, batch_id, file_id)
    return upload_s, batch.in_progress_at - batch.created_at


def _upload(cluster: EchoCluster, path: Path) -> str:
    """In one request, or in parts where the server takes no request of that size."""
    if path.stat().st_size <= cluster.settings.api.upload_bytes_max:
        with path.open("rb") as file, httpx.Client(base_url=cluster.url, timeout=VALIDATED_MAX_S) as client:
            files = {"file": ("requests.jsonl", file)}
            answer = client.post("/v1/files", files=files, data={"purpose": "batch"}).raise_for_status()
        return str(answer.json()["id"])
    with closing(OpenAI(base_url=f"{cluster.url}/v1", api_key="none", timeout=VALIDATED_MAX_S)) as client:
        done = client.uploads.upload_file_chunked(file=path, mime_type="application/jsonl", purpose="batch")
        assert done.file is not None
        return done.file.id


def _status(cluster: EchoCluster, batch_id: str) -> str:
    return str(cluster.get(f"/v1/batches/{batch_id}")["status"])


def _forget(cluster: EchoCluster, batch_id: str, file_id: str) -> None:
    """A few lines may have run to their end before they can be cancelled."""
    with suppress(httpx.HTTPStatusError):
        cluster.post(f"/v1/batches/{batch_id}/cancel")
    until(lambda: _status(cluster, batch_id) in TERMINAL, VALIDATED_MAX_S, "it has not ended")
    cluster.delete(f"/v1/batches/{batch_id}")
    cluster.delete(f"/v1/files/{file_id}")
