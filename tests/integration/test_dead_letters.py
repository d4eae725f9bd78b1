"""Dead letters on a real cluster: told, run again by type, by id and all together, while old files stay."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import httpx
import pytest

from jobs.echo_cluster import EchoCluster, until
from jobs.trial import TRIAL_MAX_S, Trial, committed, requests, upload_of

pytestmark = pytest.mark.cluster

ROWS = 600
#: rows of the batch and what they ask the engine for: those of ``TIRED`` succeed in a later round
REFUSED = tuple(range(7, ROWS, 100))
TIRED = tuple(range(13, ROWS, 50))
TIRED_FAILURES = 5  #: more than one round's tries of a row, fewer than two rounds'


def told(row: int) -> str:
    if row in REFUSED:
        return f"[[status=400]] number {row}"
    if row in TIRED:
        return f"[[status=503 times={TIRED_FAILURES}]] number {row}"
    return f"hello number {row}"


def failed(cluster: EchoCluster, batch_id: str, **query: Any) -> dict[int, dict[str, Any]]:
    page = cluster.get(f"/v1/batches/{batch_id}/failed", limit=1000, **query)
    assert page["has_more"] is False
    return {letter["index"]: letter for letter in page["data"]}


def files(cluster: EchoCluster, batch: dict[str, Any]) -> dict[str, bytes]:
    return {kind: cluster.content(batch[f"{kind}_file_id"]) for kind in ("output", "error")}


def check(cluster: EchoCluster, batch: dict[str, Any], failed_rows: set[int]) -> None:
    """Every row is in one file, in input order, and says what it should; the object counts the same."""
    found = files(cluster, batch)
    lines = {kind: [json.loads(line) for line in content.splitlines()] for kind, content in found.items()}
    ids = {kind: [line["custom_id"] for line in of_kind] for kind, of_kind in lines.items()}
    assert ids["error"] == [f"r{row}" for row in sorted(failed_rows)]
    assert ids["output"] == [f"r{row}" for row in range(ROWS) if row not in failed_rows]
    texts = [line["response"]["body"]["choices"][0]["message"]["content"] for line in lines["output"]]
    assert texts == [f"echo: {told(row)}" for row in range(ROWS) if row not in failed_rows]
    completed = ROWS - len(failed_rows)
    counts = {"total": ROWS, "completed": completed, "failed": len(failed_rows)}
    assert batch["request_counts"] == counts
    generated = sum(line["response"]["body"]["usage"]["completion_tokens"] for line in lines["output"])
    assert batch["usage"]["output_tokens"] == generated
    for kind, content in found.items():
        file_id = batch[f"{kind}_file_id"]
        assert file_id is None or cluster.get(f"/v1/files/{file_id}")["bytes"] == len(content)


def retry(cluster: EchoCluster, trial: Trial, **chosen: Any) -> dict[str, Any]:
    """Once it has ended again."""
    reopened = cluster.post(f"/v1/batches/{trial.batch_id}/retry", json=chosen)
    assert reopened["status"] == "in_progress"
    assert reopened["output_file_id"] is None
    return trial.wait_ended()


def test_failed_rows_run_again_until_none_is_left_that_can_succeed(shared: EchoCluster) -> None:
    trial = Trial(shared, upload_of((f"r{row}", told(row)) for row in range(ROWS)))
    first = trial.wait_ended()
    check(shared, first, {*REFUSED, *TIRED})
    letters = failed(shared, trial.batch_id)
    assert Counter(letter["status_code"] for letter in letters.values()) == {
        400: len(REFUSED),
        503: len(TIRED),
    }
    types = {letter["status_code"]: letter["error_type"] for letter in letters.values()}
    assert failed(shared, trial.batch_id, error_type=types[503]).keys() == set(TIRED)
    assert all(letter["error_message"] for letter in letters.values())
    old = files(shared, first)

    one = TIRED[0]
    second = retry(shared, trial, custom_ids=[f"r{one}"])
    check(shared, second, {*REFUSED, *TIRED[1:]})
    assert second["raybatch"]["round"] == 2

    third = retry(shared, trial, error_types=[types[503]])
    check(shared, third, {*REFUSED})
    last = retry(shared, trial)
    check(shared, last, {*REFUSED})
    assert (last["status"], last["raybatch"]["round"]) == ("completed", 4)

    for row, letter in failed(shared, trial.batch_id).items():
        assert letter["attempts"] == letters[row]["attempts"] + 1
        assert letter["first_at"] == letters[row]["first_at"] < letter["last_at"]
    assert files(shared, first) == old
    kinds = Counter(entry["kind"] for entry in shared.get(f"/v1/batches/{trial.batch_id}/logs")["data"])
    assert (kinds["retried"], kinds["ended"]) == (3, 4)

    with pytest.raises(httpx.HTTPStatusError) as nothing:
        retry(shared, trial, custom_ids=[f"r{one}"])
    assert nothing.value.response.status_code == 400


def test_a_paused_batch_stands_still_until_it_is_resumed(shared: EchoCluster) -> None:
    trial = Trial(shared, requests(8000))
    trial.wait_committed(500)
    url = f"/v1/batches/{trial.batch_id}"
    assert shared.post(f"{url}/pause")["raybatch"]["paused"] is True
    until(lambda: _held_rows(shared) == 0, TRIAL_MAX_S, "the engine still has rows of a paused batch")
    paused = trial.look() or {}
    assert paused["status"] == "in_progress"

    other = Trial(shared, requests(200))
    assert other.wait_ended()["status"] == "completed"
    assert committed(trial.look() or {}) == committed(paused) < 8000

    assert shared.post(f"{url}/resume")["raybatch"]["paused"] is False
    assert trial.verdict().faults == []


def _held_rows(cluster: EchoCluster) -> int:
    held: int = sum(engine["held_rows"] for engine in cluster.get("/health")["engines"])
    return held
