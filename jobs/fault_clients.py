"""F4, F8, F19: clients whose replica dies, whose replies are lost, who hang up, dawdle or ask ten times."""

from __future__ import annotations

import json
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
from openai import OpenAI

from jobs.echo_cluster import EchoCluster, until
from jobs.fault_case import MENDED_MAX_S, Outcome, PatientTrial, Story, kill, patient
from jobs.trial import ENDPOINT, Trial, requests, upload_of
from raybatch.crash_points import arm, fired
from raybatch.storage.atomic import TEMPORARY_PREFIX

CREATES: Final = 10
CUT_OFF: Final = 500
SLOW: Final = 3  #: one fewer than the uploads that are taken at once
LONG_WORD: Final = "x" * 5000  #: makes uploads large and costs no tokens
ARRIVES_MAX_S: Final = 30.0


def upload_killed(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    """The replica dies in the middle of an upload: there is no such file, and the next try succeeds."""
    story = Story(cluster, "F4", "kill -9 the replica during an upload")
    before, left = _file_ids(cluster), _unfinished(cluster)
    body = _large(rows)
    with _half_upload(cluster, body) as half:
        half.sendall(body[: len(body) // 2])
        until(lambda: _unfinished(cluster) > left, ARRIVES_MAX_S, "nothing of it arrives")
        killed_mono = time.monotonic()
        kill(cluster, "replica")
    recovery_s = _api_back_s(cluster, killed_mono)
    story.expect(_file_ids(cluster) == before, "half an upload became a file")
    yield story.outcome(PatientTrial(cluster, body), recovery_s)


def create_killed(cluster: EchoCluster, directory: Path, rows: int) -> Iterator[Outcome]:
    """The batch is remembered and the reply lost: asked again with the same key, it is the same batch."""
    story = Story(cluster, "F4", "kill -9 the replica between create and reply")
    arm(directory, "create.remembered")
    started_mono = time.monotonic()
    trial = PatientTrial(cluster, requests(rows))
    recovery_s = time.monotonic() - started_mono
    story.expect(fired(directory, "create.remembered"), "the replica did not die: nothing was tried")
    story.expect(trial.twins() == 1, f"{trial.twins()} batches came of one create")
    yield story.outcome(trial, recovery_s)


def download_killed(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    """A client sees that its download broke off; the next one is whole."""
    story = Story(cluster, "F4", "kill -9 the replica during a download")
    trial = PatientTrial(cluster, _large(rows))
    file_id = trial.wait_ended()["output_file_id"]
    url = f"{cluster.url}/v1/files/{file_id}/content"
    whole = httpx.get(url).content
    killed_mono = time.monotonic()
    got = b""
    try:
        with httpx.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
            for block in answer.iter_raw(4096):
                if not got:
                    cluster.signal("replica", signal.SIGKILL)
                got += block
    except httpx.HTTPError:
        pass
    else:
        story.expect(got == whole, f"{len(got)} of {len(whole)} bytes were taken for a whole file")
    story.case += f", {len(got) / len(whole):.0%} of it received"
    recovery_s = _api_back_s(cluster, killed_mono)
    story.expect(patient(lambda: cluster.content(file_id)) == whole, "the second download is another one")
    yield story.outcome(trial, recovery_s)


def lost_reply(cluster: EchoCluster, directory: Path, rows: int) -> Iterator[Outcome]:
    """OpenAI's own client, without a key: its own second try finds the batch of the first."""
    story = Story(cluster, "F8", "the reply to the stock client's create is lost")
    body = requests(rows)
    with OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=20) as client:
        file = client.files.create(file=("requests.jsonl", body), purpose="batch")
        arm(directory, "create.remembered")
        started_mono = time.monotonic()
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint=ENDPOINT,
            completion_window="24h",
        )
        recovery_s = time.monotonic() - started_mono
    story.expect(fired(directory, "create.remembered"), "the replica did not die: nothing was tried")
    trial = PatientTrial.known(cluster, body, file.id, batch.id)
    story.expect(trial.twins() == 1, f"{trial.twins()} batches came of one create")
    yield story.outcome(trial, recovery_s)


def repeated_create(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    story = Story(cluster, "F19", f"one create {CREATES} times at once with one Idempotency-Key")
    body = requests(rows)
    files = {"file": ("requests.jsonl", body)}
    file_id = patient(lambda: cluster.post("/v1/files", files=files, data={"purpose": "batch"}))["id"]
    asked = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    key = {"Idempotency-Key": uuid.uuid4().hex}

    def create(_: int) -> Any:
        answer = httpx.post(f"{cluster.url}/v1/batches", json=asked, headers=key, timeout=60.0)
        return answer.status_code, answer.json().get("id")

    with ThreadPoolExecutor(CREATES) as pool:
        answers = set(pool.map(create, range(CREATES)))
    story.expect(len(answers) == 1, f"the answers differ: {json.dumps(sorted(map(str, answers)))}")
    trial = PatientTrial.known(cluster, body, file_id, next(iter(answers))[1])
    story.expect(trial.twins() == 1, f"{trial.twins()} batches came of one create")
    yield story.outcome(trial)


def cut_off(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    """Hundreds of clients hang up in the middle: no file, no temporary bytes, no slot is left of them."""
    story = Story(cluster, "F19", f"{CUT_OFF} uploads cut off in the middle")
    before, left = _file_ids(cluster), _unfinished(cluster)
    body = _large(rows)
    for share in range(CUT_OFF):
        with _half_upload(cluster, body) as half:
            half.sendall(body[: len(body) * (share % 100) // 100])
    ended_mono = time.monotonic()
    until(lambda: _unfinished(cluster) <= left, MENDED_MAX_S, "there are still temporary files")
    story.expect(_file_ids(cluster) == before, "half an upload became a file")
    yield story.outcome(PatientTrial(cluster, body), time.monotonic() - ended_mono)


def slow_senders(cluster: EchoCluster, rows: int) -> Iterator[Outcome]:
    """Some dawdle, and a proper client's batch goes on beside them."""
    story = Story(cluster, "F19", f"{SLOW} senders that stop in the middle, and a proper one")
    left = _unfinished(cluster)
    body = _large(rows)
    with ExitStack() as slow:
        for _ in range(SLOW):
            half = slow.enter_context(_half_upload(cluster, body))
            half.sendall(body[: len(body) // 2])
        outcome = story.outcome(Trial(cluster, body))
    until(lambda: _unfinished(cluster) <= left, MENDED_MAX_S, "there are still temporary files")
    yield outcome


def _large(rows: int) -> bytes:
    """An upload of some megabytes: a small one is in memory until it is whole."""
    return upload_of((f"r{number}", f"hello number {number} {LONG_WORD}") for number in range(rows))


def _half_upload(cluster: EchoCluster, body: bytes) -> socket.socket:
    """A connection on which the head of an upload was sent and none of its file yet."""
    api = cluster.settings.api
    boundary = uuid.uuid4().hex
    part = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="requests.jsonl"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {api.host}:{api.port}\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\n"
        f"Content-Length: {len(part) + len(body) + 100}\r\n\r\n"
    )
    connection = socket.create_connection((api.host, api.port), timeout=30.0)
    connection.sendall((head + part).encode())
    return connection


def _unfinished(cluster: EchoCluster) -> set[str]:
    """Temporary files of uploads. Those of a killed replica stay until the daily sweep."""
    return {path.name for path in cluster.home.files.iterdir() if path.name.startswith(TEMPORARY_PREFIX)}


def _file_ids(cluster: EchoCluster) -> set[str]:
    """Uploads that the API lists."""
    listed = patient(lambda: cluster.get("/v1/files", purpose="batch"))["data"]
    return {file["id"] for file in listed}


def _api_back_s(cluster: EchoCluster, since_mono: float) -> float:
    patient(lambda: cluster.get("/v1/batches", limit=1))
    return time.monotonic() - since_mono
