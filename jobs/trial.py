"""One batch on an EchoCluster, from its upload to the checker's verdict, watched through the API alone.

Looking survives an API that is away: whatever is killed meanwhile, the batch is only asked for again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

import httpx

from jobs.checker import Verdict, check
from jobs.echo_cluster import MODEL, EchoCluster, until

Json = dict[str, Any]
ENDPOINT: Final = "/v1/chat/completions"
ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
TRIAL_MAX_S: Final = 300.0


def requests(rows: int) -> bytes:
    """An upload of so many different requests."""
    return upload_of((f"r{number}", f"hello number {number}") for number in range(rows))


def upload_of(pairs: Iterable[tuple[str, str]]) -> bytes:
    """JSONL of one chat request for each pair of custom_id and what the user says."""
    return b"".join(json.dumps(request(*pair)).encode() + b"\n" for pair in pairs)


def request(custom_id: str, told: str) -> Json:
    body = {"model": MODEL, "messages": [{"role": "user", "content": told}]}
    return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}


class Trial:
    def __init__(self, cluster: EchoCluster, upload: bytes, priority: int = 0) -> None:
        """Uploads and creates: the batch is on its way then."""
        self._cluster = cluster
        self._upload = upload
        files = {"file": ("requests.jsonl", upload)}
        file_id = cluster.post("/v1/files", files=files, data={"purpose": "batch"})["id"]
        asked = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
        asked |= {"priority": priority} if priority else {}
        self.batch_id: str = cluster.post("/v1/batches", json=asked)["id"]

    def look(self) -> Json | None:
        """The batch object; None while the API does not answer."""
        try:
            shown: Json = self._cluster.get(f"/v1/batches/{self.batch_id}")
        except httpx.HTTPError:
            return None
        return shown

    def wait(self, true: Callable[[Json], bool], otherwise: str) -> Json:
        """The first batch object of which it is true. Raises TimeoutError saying what was not so."""
        seen: Json = {}

        def so() -> bool:
            nonlocal seen
            seen = self.look() or {}
            return bool(seen) and true(seen)

        until(so, TRIAL_MAX_S, f"{self.batch_id}: {otherwise}")
        return seen

    def wait_committed(self, rows: int) -> Json:
        """Until at least so many rows are committed, or it ended with fewer."""
        return self.wait(
            lambda batch: committed(batch) >= rows or batch["status"] in ENDED, f"no {rows} rows committed"
        )

    def wait_ended(self) -> Json:
        return self.wait(lambda batch: batch["status"] in ENDED, "it has not ended")

    def cancel(self) -> Json:
        cancelled: Json = self._cluster.post(f"/v1/batches/{self.batch_id}/cancel")
        return cancelled

    def verdict(self) -> Verdict:
        """Of the checker, once the batch ended: over object, files and SQL."""
        batch = self.wait_ended()
        output, error = (self._cluster.content(batch[f"{kind}_file_id"]) for kind in ("output", "error"))
        return check(self._upload, batch, output, error, self._cluster.stored(self.batch_id))


def committed(batch: Json) -> int:
    counts = batch["request_counts"]
    rows: int = counts["completed"] + counts["failed"]
    return rows
