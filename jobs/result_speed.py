"""P7: how soon a finished batch is ``completed``, and how fast its results can be read.

On the echo engine. Its output file is downloaded beside the same bytes as an uploaded file, which the same
replica serves as it lies on disk; SQL over the views runs beside DuckDB straight on the same Parquet files.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import httpx

from jobs.echo_cluster import EchoCluster
from jobs.runs import Ratio
from jobs.trial import Trial, requests

READ_MAX_S: Final = 300.0
SQL: Final = "SELECT status_code, count(*), avg(completion_tokens), max(length(text)) FROM {} GROUP BY 1"
STRAIGHT: Final = """
import sys, time, duckdb
con = duckdb.connect()
started = time.monotonic()
con.execute(sys.argv[1].format(f"read_parquet({sys.argv[2:]!r})")).fetchall()
print(time.monotonic() - started)
"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Round:
    number: int
    rows: int
    size_bytes: int  #: of the output file
    completed_after_s: float  #: from the last row's end to the completed batch
    download_s: float
    static_s: float  #: of the same bytes, uploaded
    sql_s: float
    straight_s: float

    @property
    def download(self) -> float:
        """Bytes a second ÷ those of the static file."""
        return self.static_s / self.download_s

    @property
    def sql(self) -> float:
        """Time of a query ÷ DuckDB's own."""
        return self.sql_s / self.straight_s


def measure(cluster: EchoCluster, rows: int, rounds: int, say: Say) -> list[Round]:
    """Each round is a batch of its own. Raises AssertionError when a row is not what it must be."""
    return [_round(cluster, rows, number, say) for number in range(rounds)]


def report(rounds: list[Round]) -> dict[str, Any]:
    """As it is written to JSON."""
    return {
        "metric": "P7 results: s from last row to completed; download MB/s ÷ a static file's; SQL ÷ DuckDB's",
        "completed_after_s": Ratio.of([round_.completed_after_s for round_ in rounds]),
        "ratio": {
            "download": Ratio.of([round_.download for round_ in rounds]),
            "sql": Ratio.of([round_.sql for round_ in rounds]),
        },
        "runs": [asdict(round_) | {"download": round_.download, "sql": round_.sql} for round_ in rounds],
    }


def _round(cluster: EchoCluster, rows: int, number: int, say: Say) -> Round:
    trial = Trial(cluster, requests(rows))
    if faults := trial.verdict().faults:
        raise AssertionError(f"{trial.batch_id} went wrong: {faults}")
    ended = trial.wait_ended()
    batch = cluster.batch(trial.batch_id)
    assert batch.completed_at is not None
    (last,) = cluster.sql(trial.batch_id, "SELECT epoch(max(finished_at)) AS at FROM results")
    body = cluster.content(ended["output_file_id"])
    twin = cluster.post("/v1/files", files={"file": ("twin.jsonl", body)}, data={"purpose": "batch"})["id"]
    files = (ended["output_file_id"], twin)
    in_turn = files[:: -1 if number % 2 else 1]
    times = {file_id: _download_s(cluster, file_id, len(body)) for file_id in in_turn}
    done = Round(
        number=number,
        rows=rows,
        size_bytes=len(body),
        completed_after_s=batch.completed_at - last["at"],
        download_s=times[ended["output_file_id"]],
        static_s=times[twin],
        sql_s=cluster.sql_s(trial.batch_id, SQL.format("results")),
        straight_s=_straight_s(cluster, trial.batch_id),
    )
    say(f"round {number + 1}: completed after {done.completed_after_s:.2f} s, download {done.download:.2f}")
    cluster.delete(f"/v1/batches/{trial.batch_id}")
    cluster.delete(f"/v1/files/{twin}")
    return done


def _download_s(cluster: EchoCluster, file_id: str, size_bytes: int) -> float:
    received = 0
    url, whole = f"{cluster.url}/v1/files/{file_id}/content", {"Accept-Encoding": "identity"}
    with httpx.Client(timeout=READ_MAX_S) as client:  # loads certificates, which takes longer than the file
        started_mono = time.monotonic()
        with client.stream("GET", url, headers=whole) as answer:
            for block in answer.raise_for_status().iter_raw():
                received += len(block)
        took_s = time.monotonic() - started_mono
    assert received == size_bytes, f"{received} bytes of {size_bytes}"
    return took_s


def _straight_s(cluster: EchoCluster, batch_id: str) -> float:
    paths = [str(path) for path in cluster.part_paths(batch_id)]
    child = subprocess.run(
        [sys.executable, "-c", STRAIGHT, SQL, *paths],
        capture_output=True,
        text=True,
        check=True,
        timeout=READ_MAX_S,
    )
    return float(child.stdout)
