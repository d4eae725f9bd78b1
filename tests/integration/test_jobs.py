"""The operators' jobs as operators run them: through Ray's own job API, and from a shell."""

from __future__ import annotations

import csv
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import export_results
from jobs.checker import check
from jobs.echo_cluster import EchoCluster, until
from jobs.trial import Trial, committed, requests, upload_of
from raybatch.actors.cluster_facts import running
from raybatch.actors.connection import Connection, Unreachable

JOBS = ("submit_batch", "retry_failed", "export_results", "drain")
JOB_MAX_S = 180.0
ROWS = 200
FAILED_ONCE = "service_unavailable_error"
HELP_ONLY = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
finally:
    print("heavy:", sorted({"ray", "openai", "duckdb", "pyarrow", "vllm"} & set(sys.modules)))
"""


class RayJobs:
    """Ray's job API of one cluster, with its token."""

    def __init__(self, cluster: EchoCluster) -> None:
        from ray.job_submission import JobSubmissionClient

        facts = running(cluster.home)
        assert facts is not None
        token = (cluster.home.run / "ray_token").read_text()
        self._client = JobSubmissionClient(facts.dashboard_url, headers={"Authorization": f"Bearer {token}"})

    def run(self, *entrypoints: str) -> tuple[str, str]:
        """One job of these commands, one after the other: its status in the end, and what it said."""
        job_id = self._client.submit_job(entrypoint=" && ".join(entrypoints))
        until(lambda: self._client.get_job_status(job_id).is_terminal(), JOB_MAX_S, f"{entrypoints} goes on")
        return self._client.get_job_status(job_id).value, self._client.get_job_logs(job_id)


@pytest.fixture
def ray_jobs(shared: EchoCluster) -> Iterator[RayJobs]:
    try:
        yield RayJobs(shared)
    finally:
        with closing(Connection(shared.home, shared.url, None)) as connection:
            connection.admin("POST", "/admin/drain", {"on": False})


@pytest.mark.cluster
@pytest.mark.filterwarnings("default")
def test_a_batch_is_submitted_retried_and_exported_by_ray_jobs(
    shared: EchoCluster, ray_jobs: RayJobs, tmp_path: Path
) -> None:
    upload = upload_of((f"r{number}", _told(number)) for number in range(ROWS))
    (tmp_path / "requests.jsonl").write_bytes(upload)

    status, said = ray_jobs.run(
        f"python -m jobs.submit_batch {tmp_path}/requests.jsonl --metadata from=ray --priority 7 --wait"
    )
    assert status == "SUCCEEDED", said
    batch_id = _batch_id(said)
    assert f"{batch_id} completed: 180 of 200 rows answered, 20 failed" in said
    batch = shared.get(f"/v1/batches/{batch_id}")
    assert (batch["metadata"], batch["raybatch"]["priority"]) == ({"from": "ray"}, 7)

    status, said = ray_jobs.run(f"python -m jobs.retry_failed {batch_id} --type no_such_error")
    assert status == "FAILED"
    assert "no failed request has such an error type" in said
    assert "Traceback" not in said

    status, said = ray_jobs.run(f"python -m jobs.retry_failed {batch_id} --type {FAILED_ONCE} --wait")
    assert status == "SUCCEEDED", said
    assert f"{batch_id}: 10 rows run again, 10 failed ones are left as they are" in said
    assert f"{batch_id} completed: 190 of 200 rows answered, 10 failed" in said

    exports = {
        "answered.jsonl": "--kind output",
        "failed.jsonl": "--kind error",
        "all.jsonl": "",
        "all.csv": "",
        "all.parquet": "",
    }
    status, said = ray_jobs.run(
        *(
            f"python -m jobs.export_results {batch_id} --to {tmp_path}/{name} {kind}"
            for name, kind in exports.items()
        )
    )
    assert status == "SUCCEEDED", said
    exported = {name: (tmp_path / name).read_bytes() for name in exports}
    batch = shared.get(f"/v1/batches/{batch_id}")
    output, error = (shared.content(batch[f"{kind}_file_id"]) for kind in ("output", "error"))
    assert check(upload, batch, output, error).faults == []
    assert (exported["answered.jsonl"], exported["failed.jsonl"]) == (output, error)
    lines = exported["all.jsonl"].splitlines()
    assert sorted(lines) == sorted((output + error).splitlines())
    shown = [_summary(json.loads(line)) for line in lines]
    assert [custom_id for custom_id, _ in shown] == [f"r{number}" for number in range(ROWS)]
    table = csv.DictReader(io.StringIO(exported["all.csv"].decode()))
    assert [(row["custom_id"], int(row["status_code"])) for row in table] == shown
    columns = pq.read_table(tmp_path / "all.parquet").to_pydict()
    assert list(zip(columns["custom_id"], columns["status_code"], strict=True)) == shown
    assert {path.name for path in tmp_path.iterdir()} == {"requests.jsonl", *exports}


@pytest.mark.cluster
@pytest.mark.filterwarnings("default")
def test_a_drain_by_a_ray_job_brings_the_engines_to_rest_until_it_is_taken_back(
    shared: EchoCluster, ray_jobs: RayJobs
) -> None:
    trial = Trial(shared, requests(40_000))
    trial.wait_committed(1)

    status, said = ray_jobs.run("python -m jobs.drain --timeout-s 120")
    assert status == "SUCCEEDED", said
    assert "drained: no engine holds a row" in said
    rested = shared.get(f"/v1/batches/{trial.batch_id}")
    assert rested["status"] == "in_progress"
    health = shared.admin("overview")["health"]
    assert (health["scheduler"]["state"], [engine["held_rows"] for engine in health["engines"]]) == (
        "draining",
        [0],
    )

    status, said = ray_jobs.run("python -m jobs.drain --resume")
    assert status == "SUCCEEDED", said
    trial.wait_committed(committed(rested) + 1)
    trial.cancel()
    assert trial.verdict().faults == []


@pytest.mark.cluster
def test_the_jobs_work_from_a_shell_as_well(shared: EchoCluster, tmp_path: Path) -> None:
    lines = requests(20).splitlines(keepends=True)
    lines[6] = b'{"custom_id": "r6", "method": "POST"\n'
    (tmp_path / "broken.jsonl").write_bytes(b"".join(lines))
    ended = _shell(shared, "submit_batch", "broken.jsonl", "--wait", cwd=tmp_path)
    assert ended.returncode == 1
    batch = shared.get(f"/v1/batches/{_batch_id(ended.stdout)}")
    assert batch["status"] == "failed"
    assert "line 7: This line is not parseable as valid JSON." in ended.stderr
    relaxed = _shell(shared, "submit_batch", "broken.jsonl", "--relaxed", "--wait", cwd=tmp_path)
    assert relaxed.returncode == 0, relaxed.stderr
    counts = shared.get(f"/v1/batches/{_batch_id(relaxed.stdout)}")["request_counts"]
    assert counts == {"total": 20, "completed": 19, "failed": 1}

    missing = _shell(shared, "submit_batch", "absent.jsonl", cwd=tmp_path)
    assert missing.returncode == 1
    assert f"cannot read absent.jsonl from {tmp_path}" in missing.stderr
    unknown = _shell(shared, "retry_failed", "batch_of_nobody")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    assert "No batch found with id 'batch_of_nobody'" in unknown.stderr


@pytest.mark.cluster
def test_the_documented_line_submits_through_rays_own_command(shared: EchoCluster, tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").write_bytes(requests(5))
    facts = running(shared.home)
    assert facts is not None
    ended = subprocess.run(
        [
            Path(sys.executable).parent / "ray",
            *("job", "submit", "--", "python", "-m", "jobs.submit_batch"),
            *(tmp_path / "requests.jsonl", "--wait"),
        ],
        env=os.environ
        | {
            "RAY_API_SERVER_ADDRESS": str(facts.dashboard_url),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(shared.home.run / "ray_token"),
        },
        capture_output=True,
        text=True,
        timeout=JOB_MAX_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "completed: 5 of 5 rows answered, 0 failed" in ended.stdout


@pytest.mark.parametrize("name", JOBS)
def test_help_needs_no_server_and_nothing_heavy(name: str, tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", HELP_ONLY, f"jobs.{name}"],
        env=os.environ | {"RAYBATCH_HOME": str(tmp_path / "absent")},
        capture_output=True,
        text=True,
        timeout=JOB_MAX_S,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "--home" in told.stdout
    assert "heavy: []" in told.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("older\n")
    with _stalling() as (url, hang_up):
        hang_up.set()
        with pytest.raises(Unreachable, match="broke off"):
            export_results.main("batch_1", out, url=url)
    assert (out.read_text(), [path.name for path in tmp_path.iterdir()]) == ("older\n", ["out.jsonl"])


def test_an_export_that_is_stopped_cleans_up_behind_itself(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("older\n")
    with _stalling() as (url, hang_up):
        command = [sys.executable, "-m", "jobs.export_results", "batch_1", "--to", str(out), "--url", url]
        with subprocess.Popen(command) as export:
            try:
                until(lambda: len(list(tmp_path.iterdir())) == 2, JOB_MAX_S, "the export has not begun")
                export.terminate()
                assert export.wait(JOB_MAX_S) == 143
            finally:
                export.kill()
                hang_up.set()
    assert (out.read_text(), [path.name for path in tmp_path.iterdir()]) == ("older\n", ["out.jsonl"])


def _told(number: int) -> str:
    """A tenth of the rows fail: half of them always, half only as often as an engine tries in one round."""
    match number % 20:
        case 3:
            return f"number {number} [[status=503 times=3]]"
        case 7:
            return f"number {number} [[status=400]]"
        case _:
            return f"hello number {number}"


def _batch_id(said: str) -> str:
    found = re.search(r"^batch_\w+$", said, re.MULTILINE)
    assert found is not None, said
    return found[0]


def _summary(line: dict[str, object]) -> tuple[object, object]:
    response = line["response"]
    assert isinstance(response, dict)
    return line["custom_id"], response["status_code"]


def _shell(
    cluster: EchoCluster, name: str, *words: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"jobs.{name}", *words, "--home", str(cluster.home.root)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=JOB_MAX_S,
        check=False,
    )


@contextmanager
def _stalling() -> Iterator[tuple[str, threading.Event]]:
    """The URL of a server that sends half a download, and hangs up once the event is set."""
    hang_up = threading.Event()

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps({"status": "completed"}).encode()
            whole = not self.path.split("?")[0].endswith("/results")
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) * (1 if whole else 2)))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()
            if not whole:
                hang_up.wait()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", hang_up
        finally:
            hang_up.set()
            server.shutdown()
            thread.join()
