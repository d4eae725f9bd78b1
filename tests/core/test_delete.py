"""A deleted batch is gone with all that was its own, and nothing that is another's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raybatch.core.commands import RemoveBatch, RemoveBlob, RemoveParts, Verdict
from raybatch.core.events import (
    BatchDeletionAsked,
    ChoreBroke,
    FileDeletionAsked,
    IntakeEnded,
    PartsCompacted,
    PartWritten,
)
from raybatch.core.model import BatchStatus, RowSpan
from raybatch.core.state import State
from tests.core.scene import MODEL, Scene, part_of, slice_of


@pytest.fixture
def scene() -> Scene:
    return Scene()


def delete(scene: Scene, batch_id: str = "batch_1", tenant: str = "t") -> Any:
    return scene.say(BatchDeletionAsked("r", tenant, batch_id))


def run(scene: Scene, batch_id: str = "batch_1", *, failed: int = 0) -> None:
    scene.accept(20, batch_id)
    scene.finish(batch_id=batch_id, failed=failed)


def named(state: State) -> set[str]:
    """Every key that anything durable has."""
    return {str(image.key) for image in state.images() if image.table != "counters"}


def test_an_ended_batch_goes_with_its_rows_files_rounds_and_log(scene: Scene) -> None:
    run(scene, "batch_2")
    before = named(scene.state)
    run(scene, failed=3)
    scene.retry(RowSpan(17, 0b111, 1))
    scene.finish(failed=1)
    paths = tuple(part.path for part in scene.state.parts["batch_1"].values())

    assert delete(scene).batch_id == "batch_1"

    assert scene.commands == [RemoveBatch("batch_1", paths)]
    entry = scene.state.next_entry_id - 1
    assert named(scene.state) - before == {str(entry)}
    assert scene.state.log[entry].message == "batch_1 with its 20 rows"
    assert delete(scene).message == "No batch found with id 'batch_1'."
    remembered = scene.state.images()
    scene.restart()
    assert scene.state.images() == remembered


def test_an_active_batch_is_cancelled_and_keeps_its_rows_until_it_is_deleted_once_more(scene: Scene) -> None:
    scene.accept(20)
    leases = scene.report(wants_rows=5).leases
    assert delete(scene).status is BatchStatus.CANCELLING
    assert delete(scene).status is BatchStatus.CANCELLING
    scene.write("part_1", *(slice_of(lease) for lease in leases))
    scene.report()
    scene.wait(1.0)
    (closing,) = scene.commands
    scene.write("part_2", *(slice_of(lease, failed=lease.rows.bit_count()) for lease in closing.leases))
    assert scene.batch().status is BatchStatus.CANCELLED
    assert scene.batch().tally.completed == 5
    delete(scene)
    assert "batch_1" not in scene.state.batches


def test_another_tenants_batch_is_not_found(scene: Scene) -> None:
    run(scene)
    assert delete(scene, tenant="other").message == "No batch found with id 'batch_1'."
    assert "batch_1" in scene.state.batches


def test_an_upload_stays_unless_its_owner_deleted_it_and_no_other_batch_reads_it(scene: Scene) -> None:
    run(scene)
    run(scene, "batch_2")
    run(scene, "batch_3")
    delete(scene, "batch_3")
    assert not scene.state.files["file_in"].deleted
    scene.say(FileDeletionAsked("r", "t", "file_in"))
    delete(scene)
    assert scene.state.files["file_in"].deleted
    delete(scene, "batch_2")
    assert RemoveBlob("file_in") in scene.commands
    assert scene.state.files == {}


def test_what_is_still_said_of_a_deleted_batch_brings_nothing_back(scene: Scene) -> None:
    scene.accept(20)
    leases = scene.report(wants_rows=20, window=20).leases
    slices = tuple(slice_of(lease) for lease in leases)
    scene.write("part_1", *slices)
    delete(scene)
    before = scene.state.images()

    late = PartWritten("r", "e1", "batch_1", part_of("part_2", *slices), slices)
    assert set(scene.say(late)) == {Verdict.STALE}
    scene.say(IntakeEnded("batch_1", 20, MODEL, 200, ()))
    scene.say(ChoreBroke("compaction:batch_1", "its files are gone"))
    merged = replace(part_of("run_1", *slices), level=1)
    scene.say(PartsCompacted("batch_1", merged, ("part_1",)))
    assert scene.commands == [RemoveParts("batch_1", (merged.path,))]
    assert scene.report(held=leases).dropped == tuple(lease.chunk_id for lease in leases)
    assert scene.state.images() == before
