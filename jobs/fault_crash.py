"""F6: the process that passes a labelled step of writing or committing dies there; rows are as without it.

Every label of the source has a stage here: the moment of a batch's life at which it is armed.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from jobs.echo_cluster import EchoCluster, until
from jobs.fault_case import ENGINES, MENDED_MAX_S, Outcome, PatientTrial, Story, begun, kill, patient
from jobs.trial import ENDED, ENDPOINT, committed, requests
from raybatch.actors.gateway import REMOVAL_GRACE_S
from raybatch.actors.read_ahead import LARGE_BYTES
from raybatch.crash_points import arm, fired

UPLOAD, LARGE, AHEAD, CREATE, RUN = "upload", "large upload", "large file", "create", "run"
RELOAD, DEATH, CANCEL = "reload", "death", "cancel"
FIRST_START: Final = "journal.segmented"  #: passed when a ledger is begun, and again after 64 MiB of journal
SLOW: Final = "parts.removing"  #: two minutes after a compaction
FILL: Final = 2 * (b" " * (LARGE_BYTES - 1) + b"\n")  #: blank lines that make an upload a large one
PLACES: Final = (
    *((UPLOAD, label) for label in ("upload.written", "file.synced", "file.renamed")),
    *((UPLOAD, label) for label in ("upload.kept", "upload.remembered")),
    *((LARGE, label) for label in ("large_upload.created", "upload_part.synced", "upload_part.kept")),
    *((LARGE, label) for label in ("large_upload.chosen", "large_upload.joined")),
    *((LARGE, label) for label in ("large_upload.remembered", "large_upload.ended")),
    (AHEAD, "ahead.indexed"),
    *((CREATE, label) for label in ("create.remembered", "file.synced", "file.renamed")),
    *((CREATE, label) for label in ("intake.indexed", "chore.done", "chore.reported")),
    *((RUN, label) for label in ("part.written", "file.synced", "file.renamed", "part.kept", "part.judged")),
    *((RUN, label) for label in ("journal.writing", "journal.written", "journal.synced", "ledger.committed")),
    *((RUN, label) for label in ("turn.decided", "turn.remembered", "turn.spoken", "engine.ordered")),
    *((RUN, label) for label in ("compaction.written",)),
    *((RELOAD, label) for label in ("ledger.replayed", "scheduler.loaded")),
    (DEATH, "engine.ending"),
    (CANCEL, "closing.written"),
)
Place = tuple[str, str]  #: stage and label


def singles(cluster: EchoCluster, directory: Path, rows: int) -> Iterator[Outcome]:
    for place in PLACES:
        yield crash(cluster, directory, (place,), rows)


def removal(cluster: EchoCluster, directory: Path, rows: int) -> Iterator[Outcome]:
    """The scheduler dies between two of the files that a compaction made superfluous."""
    story = Story(cluster, "F6", f"{SLOW} (after the grace of readers)")
    trial = begun(cluster, rows)
    arm(directory, SLOW)
    limit_s = REMOVAL_GRACE_S + MENDED_MAX_S
    until(lambda: fired(directory, SLOW), limit_s, "no compacted part is removed", look_s=0.02)
    died_mono = time.monotonic()
    patient(lambda: cluster.get(f"/v1/batches/{trial.batch_id}"))
    yield story.outcome(trial, time.monotonic() - died_mono)


def pairs(cluster: EchoCluster, directory: Path, rows: int, count: int, seed: int) -> Iterator[Outcome]:
    """A sample of all pairs: the same for the same seed."""
    every = [pair for pair in combinations(PLACES, 2) if _meet(*pair)]
    for pair in random.Random(seed).sample(every, count):
        yield crash(cluster, directory, pair, rows)


def crash(cluster: EchoCluster, directory: Path, places: tuple[Place, ...], rows: int) -> Outcome:
    """One batch in which some process dies at each of these places."""
    story = Story(cluster, "F6", " and ".join(f"{label} ({stage})" for stage, label in places))
    until(lambda: cluster.ready_engines() >= ENGINES, MENDED_MAX_S, "the engines are not ready")
    for left in directory.iterdir():
        left.unlink()
    _arm(directory, places, UPLOAD)
    upload = requests(rows) + (FILL if _arm(directory, places, AHEAD) else b"")
    uploading = _in_parts if _arm(directory, places, LARGE) else PatientTrial
    with _rows_held(cluster, held=len(places) > 1):
        trial = uploading(cluster, upload, lambda: _arm(directory, places, CREATE))
        created_at = time.time()
    trial.wait_committed(rows // 10)
    _arm(directory, places, RUN)
    if _arm(directory, places, RELOAD):
        kill(cluster, "scheduler")
    if _arm(directory, places, DEATH):
        kill(cluster, "engine-child")
    cancelled = _arm(directory, places, CANCEL)
    if cancelled:
        patient(trial.cancel)
    recovery_s = _recovery_s(directory, [label for _, label in places], trial, created_at)
    missed = [label for _, label in places if not fired(directory, label)]
    story.expect(not missed, f"nobody passed {', '.join(missed)}")
    story.expect(trial.twins() == 1, f"{trial.twins()} batches came of one create")
    return story.outcome(trial, recovery_s, status="cancelled" if cancelled else "completed")


@contextmanager
def _rows_held(cluster: EchoCluster, *, held: bool) -> Iterator[None]:
    """Of a pair, the first death may take the API away for so long that nothing is left for the second."""
    if held:
        patient(lambda: cluster.pause(True))
    yield
    if held:
        patient(lambda: cluster.pause(False))


def _meet(one: Place, other: Place) -> bool:
    """Whether one batch can pass both: none is cancelled in the middle, none is uploaded in both ways."""
    stages = {one[0], other[0]}
    return one[1] != other[1] and CANCEL not in stages and stages != {UPLOAD, LARGE}


def _in_parts(cluster: EchoCluster, upload: bytes, uploaded: Callable[[], object]) -> PatientTrial:
    """As a PatientTrial begins, but for the upload."""
    declared = {"bytes": len(upload), "filename": "r.jsonl", "mime_type": "text/jsonl", "purpose": "batch"}
    path = f"/v1/uploads/{patient(lambda: cluster.post('/v1/uploads', json=declared))['id']}"
    half = len(upload) // 2
    part_ids = [
        patient(lambda part=part: cluster.post(f"{path}/parts", files={"data": part}))["id"]  # type: ignore[misc]
        for part in (upload[:half], upload[half:])
    ]
    file = patient(lambda: cluster.post(f"{path}/complete", json={"part_ids": part_ids}))["file"]
    uploaded()
    asked = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
    key = {"Idempotency-Key": uuid.uuid4().hex}
    batch = patient(lambda: cluster.post("/v1/batches", json=asked, headers=key))
    return PatientTrial.known(cluster, upload, file["id"], batch["id"])


def _recovery_s(directory: Path, labels: list[str], trial: PatientTrial, created_at: float) -> float | None:
    """From the last death until the create was answered, or the next row was committed."""

    def over(batch: dict[str, Any]) -> bool:
        return batch["status"] in ENDED or all(fired(directory, label) for label in labels)

    seen = committed(trial.wait(over, f"nobody passes {', '.join(labels)}"))
    fired_at = [(directory / f"{label}.fired").stat().st_ctime for label in labels if fired(directory, label)]
    if not fired_at:
        return None
    if max(fired_at) <= created_at:
        return created_at - max(fired_at)
    trial.wait(lambda batch: committed(batch) > seen or batch["status"] in ENDED, "no row came in any more")
    return time.time() - max(fired_at)


def _arm(directory: Path, places: tuple[Place, ...], stage: str) -> bool:
    labels = [label for its_stage, label in places if its_stage == stage]
    for label in labels:
        arm(directory, label)
    return bool(labels)
