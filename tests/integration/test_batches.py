from __future__ import annotations

import json
import signal

import pytest
from openai import APIStatusError, OpenAI
from openai.types import Batch, FileObject

from jobs.echo_cluster import EchoCluster, until
from jobs.trial import ENDED, ENDPOINT, TRIAL_MAX_S, Trial, request, requests, upload_of
from tests.intake.hostile import NAUGHTY

pytestmark = pytest.mark.cluster

MORE_NAUGHTY = (*NAUGHTY, "\x00", "x" * 100_000)


def test_the_stock_client_gets_every_answer_in_input_order(client: OpenAI) -> None:
    file = client.files.create(file=("requests.jsonl", requests(300)), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={"for": "a test"}
    )
    batch = _ended(client, batch.id)
    assert (batch.status, batch.error_file_id, batch.metadata) == ("completed", None, {"for": "a test"})
    assert batch.output_file_id is not None
    lines = client.files.content(batch.output_file_id).text.splitlines()
    assert [json.loads(line)["custom_id"] for line in lines] == [f"r{number}" for number in range(300)]
    assert batch.id in [listed.id for listed in client.batches.list(limit=5)]
    with pytest.raises(APIStatusError, match="Cannot cancel a batch with status 'completed'") as refused:
        client.batches.cancel(batch.id)
    assert refused.value.status_code == 409


def test_every_row_is_there_once_and_says_what_it_should(shared: EchoCluster) -> None:
    assert Trial(shared, requests(5000)).verdict().faults == []


def test_chores_run_in_one_warm_process_and_in_another_when_that_is_killed(shared: EchoCluster) -> None:
    assert Trial(shared, requests(20)).verdict().faults == []
    warm = shared.pids("chore")
    assert len(warm) == 1
    assert Trial(shared, requests(20)).verdict().faults == []
    assert shared.pids("chore") == warm
    shared.signal("chore", signal.SIGKILL)
    assert Trial(shared, requests(20)).verdict().faults == []
    assert shared.pids("chore") != warm


@pytest.mark.parametrize("in_parts", [False, True], ids=["in one request", "in parts"])
def test_a_large_upload_is_read_while_it_arrives_and_its_batch_takes_what_was_found(
    shared: EchoCluster, client: OpenAI, in_parts: bool
) -> None:
    """The index has the same inode before and after: nobody wrote another one."""
    lines = b"".join(
        json.dumps(request(f"r{number}", "x" * 4_000)).encode() + b"\n" for number in range(3_000)
    )
    file: FileObject | None
    if in_parts:
        file = client.uploads.upload_file_chunked(
            file=lines,
            filename="large.jsonl",
            bytes=len(lines),
            mime_type="application/jsonl",
            purpose="batch",
            part_size=len(lines) // 3,
        ).file
    else:
        file = client.files.create(file=("large.jsonl", lines), purpose="batch")
    assert file is not None
    ahead = shared.home.scratch / f"{file.id}.parquet"
    until(ahead.exists, TRIAL_MAX_S, "nobody read ahead")
    inode = ahead.stat().st_ino
    batch = client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
    assert _ended(client, batch.id).request_counts.completed == 3_000
    assert shared.home.index_path(batch.id).stat().st_ino == inode
    assert not ahead.exists()


def test_naughty_strings_come_back_as_they_went(shared: EchoCluster) -> None:
    pairs = [(f"{number}:{text[:500]}", text) for number, text in enumerate(MORE_NAUGHTY)]
    escaped = upload_of(pairs)
    as_they_are = b"".join(
        json.dumps(request(custom_id + "!", told), ensure_ascii=False).encode() + b"\r\n"
        for custom_id, told in pairs
    )
    trial = Trial(shared, b"\n".join((escaped, b"", as_they_are.rstrip())))
    assert trial.verdict().faults == []
    assert trial.wait_ended()["request_counts"]["completed"] == 2 * len(MORE_NAUGHTY)


def test_a_broken_line_fails_the_batch_and_is_named(shared: EchoCluster, client: OpenAI) -> None:
    lines = requests(50).splitlines(keepends=True)
    lines[6] = b'{"custom_id": "r6", "method": "POST"\n'
    lines[30] = lines[29]
    batch = _ended(client, Trial(shared, b"".join(lines)).batch_id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.line, error.code) for error in batch.errors.data] == [
        (7, "invalid_json_line"),
        (31, "duplicate_custom_id"),
    ]
    assert batch.errors.data[0].message == "This line is not parseable as valid JSON."
    assert (batch.output_file_id, batch.error_file_id) == (None, None)


def test_requests_that_the_engine_refuses_become_error_rows_and_harm_no_other(shared: EchoCluster) -> None:
    pairs = [(f"r{n}", "[[status=400]]" if n % 100 == 7 else f"hello number {n}") for n in range(2000)]
    trial = Trial(shared, upload_of(pairs))
    assert trial.verdict().faults == []
    batch = trial.wait_ended()
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 2000, "completed": 1980, "failed": 20}


def test_a_cancelled_batch_keeps_what_it_finished_and_names_the_rest(shared: EchoCluster) -> None:
    trial = Trial(shared, requests(5000))
    trial.wait_committed(500)
    assert trial.cancel()["status"] == "cancelling"
    assert trial.verdict().faults == []
    batch = trial.wait_ended()
    assert batch["status"] == "cancelled"
    assert batch["request_counts"]["completed"] >= 500
    assert batch["request_counts"]["failed"] > 0
    error = shared.content(batch["error_file_id"]).splitlines()
    assert {json.loads(line)["error"]["code"] for line in error} == {"batch_cancelled"}


@pytest.mark.long
def test_a_small_batch_does_not_wait_for_a_large_one(shared: EchoCluster) -> None:
    large = Trial(shared, requests(10_000))
    large.wait_committed(1)
    small = Trial(shared, requests(200))
    assert small.wait_ended()["status"] == "completed"
    assert (large.look() or {})["status"] == "in_progress"
    assert small.verdict().faults == []
    assert large.verdict().faults == []


def _ended(client: OpenAI, batch_id: str) -> Batch:
    until(lambda: client.batches.retrieve(batch_id).status in ENDED, TRIAL_MAX_S, f"{batch_id} has not ended")
    return client.batches.retrieve(batch_id)
