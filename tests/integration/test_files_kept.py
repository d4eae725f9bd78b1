"""On real processes: cut-off uploads leave nothing, deleted batches are gone, a low disk shuts the door."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from jobs.echo_cluster import EchoCluster, make_cluster, until
from jobs.trial import TRIAL_MAX_S, Trial, requests, upload_of
from raybatch.actors.reads import Remembered
from raybatch.actors.sweep import ORPHAN_AGE_S, kept, sweep
from raybatch.config import make_settings
from raybatch.ledger.rebuild import peek
from raybatch.storage.atomic import TEMPORARY_PREFIX

pytestmark = pytest.mark.cluster

ROWS = 40_000  #: of an upload: some 8 MB, which arrive in many pieces
HEAD = (
    b'--cut\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--cut\r\n'
    b'Content-Disposition: form-data; name="file"; filename="requests.jsonl"\r\n\r\n'
)
TAIL = b"\r\n--cut--\r\n"
PIECE_BYTES = 256 << 10
SOCKET_BYTES_MAX = 32 << 20  #: more than a connection's own buffers hold
STALL_S = 3.0


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_an_upload_that_breaks_off_leaves_nothing(shared: EchoCluster, share: float) -> None:
    known = _file_ids(shared)
    with _half_an_upload(shared, requests(ROWS), share) as sent_bytes:
        if sent_bytes > 2 << 20:  # enough for some of it to be on disk
            until(lambda: bool(_unfinished(shared)), TRIAL_MAX_S, "no byte was written")
    until(lambda: not _unfinished(shared), TRIAL_MAX_S, "the upload left something")
    assert _file_ids(shared) == known
    assert Trial(shared, requests(10)).verdict().faults == []


def test_a_batch_is_verified_and_deleted_by_command(shared: EchoCluster) -> None:
    trial = Trial(shared, upload_of((f"r{n}", "[[status=400]]" if n % 10 == 0 else "hi") for n in range(500)))
    batch = trial.wait_ended()
    other = Trial(shared, requests(100))
    other.wait_ended()
    verified = _command(shared, "verify", trial.batch_id)
    assert (verified.returncode, "500 requests, nothing lost" in verified.stdout) == (0, True)
    parts = [part.path for part in peek(shared.home.ledger)[1].parts[trial.batch_id].values()]
    assert all((shared.home.root / path).is_file() for path in parts)

    deleted = _command(shared, "delete", trial.batch_id, "--yes")

    assert (deleted.returncode, "450 answers and 50 errors" in deleted.stdout) == (0, True)
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        shared.get(f"/v1/batches/{trial.batch_id}")
    for kind in ("output", "error"):
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            shared.content(batch[f"{kind}_file_id"])
    assert shared.get(f"/v1/files/{batch['input_file_id']}")["id"] == batch["input_file_id"]
    _, state = peek(shared.home.ledger)
    assert (trial.batch_id in state.batches, trial.batch_id in state.parts) == (False, False)
    assert other.verdict().faults == []
    assert _command(shared, "du").returncode == 0
    sweep(shared.home, kept(_remembered(shared)), time.time() + 2 * ORPHAN_AGE_S)  # as if it were tomorrow
    assert not any((shared.home.root / path).exists() for path in parts)
    audited = _command(shared, "verify", other.batch_id, "--deep")
    assert (audited.returncode, audited.stdout.count("\n")) == (0, 1)


@pytest.mark.long
def test_a_low_disk_shuts_the_door_until_there_is_space_and_the_sweep_finds_what_a_kill_left() -> None:
    cluster = make_cluster("scheduler.disk_free_bytes_min=1000000000000000000")
    try:
        cluster.up(engines=0)  # /health answers 503, so nobody can see them
        until(lambda: _refused(cluster) is not None, TRIAL_MAX_S, "the disk was not looked at")
        refusal = _refused(cluster) or {}
        assert refusal["code"] == "disk_low"
        assert "1,000,000,000,000,000,000 on (setting scheduler.disk_free_bytes_min)" in refusal["message"]
        cluster.down(now=True)
        port = f"api.port={cluster.settings.api.port}"
        cluster.settings = make_settings("test", ("engine.kind=echo", port), models=cluster.settings.models)
        cluster.up()
        trial = Trial(cluster, requests(200))
        assert trial.verdict().faults == []

        with _half_an_upload(cluster, requests(ROWS), 0.5):
            until(lambda: bool(_unfinished(cluster)), TRIAL_MAX_S, "no byte was written")
            cluster.signal("replica", signal.SIGKILL)
        (left,) = _unfinished(cluster)
        until(lambda: trial.look() is not None, TRIAL_MAX_S, "no replica came back")
        sweep(cluster.home, kept(_remembered(cluster)), time.time())
        assert left.exists()  # it might still be arriving
        sweep(cluster.home, kept(_remembered(cluster)), time.time() + 2 * ORPHAN_AGE_S)
        assert not left.exists()
        assert trial.verdict().faults == []
    finally:
        cluster.close()


def test_an_upload_waits_with_its_client_while_the_api_does_not_read_it(shared: EchoCluster) -> None:
    upload = upload_of((f"r{number}", "x" * 60_000) for number in range(1000))
    known = _file_ids(shared)
    with _upload(shared, upload) as (connection, message):
        reader = shared.signal("replica", signal.SIGSTOP)
        try:
            sent_bytes = _sent_at_once(connection, message)
        finally:
            os.kill(reader, signal.SIGCONT)
        assert sent_bytes < SOCKET_BYTES_MAX < len(message)
        connection.settimeout(TRIAL_MAX_S)
        connection.sendall(message[sent_bytes:])
        assert connection.makefile("rb").readline().split()[1] == b"200"
    (file_id,) = set(_file_ids(shared)) - set(known)
    assert shared.content(file_id) == upload


@contextmanager
def _half_an_upload(cluster: EchoCluster, upload: bytes, share: float) -> Iterator[int]:
    """A client that promises all of it, has sent so much, and hangs up when the block ends."""
    with _upload(cluster, upload) as (connection, message):
        sent = message[: round(len(message) * share)]
        connection.sendall(sent)
        yield len(sent)


@contextmanager
def _upload(cluster: EchoCluster, upload: bytes) -> Iterator[tuple[socket.socket, memoryview]]:
    """A connection for an upload, and all that is to be sent."""
    address = urlsplit(cluster.url)
    body = HEAD + upload + TAIL
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=cut\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port)) as connection:
        yield connection, memoryview(head.encode() + body)


def _sent_at_once(connection: socket.socket, message: memoryview) -> int:
    """How many bytes somebody took, until nobody took more for a while."""
    connection.settimeout(STALL_S)
    sent_bytes = 0
    with contextlib.suppress(TimeoutError):
        while sent_bytes < len(message):
            sent_bytes += connection.send(message[sent_bytes : sent_bytes + PIECE_BYTES])
    return sent_bytes


def _unfinished(cluster: EchoCluster) -> list[Path]:
    return list(cluster.home.files.glob(f"{TEMPORARY_PREFIX}*"))


def _file_ids(cluster: EchoCluster) -> list[str]:
    return [file["id"] for file in cluster.get("/v1/files")["data"]]


def _remembered(cluster: EchoCluster) -> Remembered:
    known = Remembered()
    known.take(peek(cluster.home.ledger)[1].images())
    return known


def _refused(cluster: EchoCluster) -> dict[str, str] | None:
    """The error of an upload; None when it was taken."""
    files = {"file": ("a.jsonl", requests(1))}
    answer = httpx.post(f"{cluster.url}/v1/files", files=files, data={"purpose": "batch"})
    if answer.status_code == 200:
        return None
    assert answer.status_code == 503
    error: dict[str, str] = answer.json()["error"]
    return error


def _command(cluster: EchoCluster, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "raybatch"), *words]
    place = ["--home", str(cluster.home.root), "--url", cluster.url]
    return subprocess.run([*command, *place], capture_output=True, text=True, check=False)
