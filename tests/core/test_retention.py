"""Nothing goes before its time, nothing that is needed goes at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raybatch.core.commands import RemoveBatch, RemoveBlob
from raybatch.core.events import FileStored, IntakeEnded, RetentionDue
from raybatch.core.model import File
from raybatch.core.policy import Policy
from raybatch.core.retention import DAY_S, DELETED_AT_ONCE_MAX
from tests.core.scene import ASKED, MODEL, Scene


@pytest.fixture
def scene() -> Scene:
    return Scene(Policy(keep_batches_days=7.0))


def run(scene: Scene, batch_id: str = "batch_1") -> None:
    scene.accept(20, batch_id)
    scene.finish(batch_id=batch_id)


def later(scene: Scene, wall_s: float) -> None:
    scene.wall += wall_s
    scene.say(RetentionDue())


def test_nothing_goes_unless_somebody_said_so() -> None:
    scene = Scene()
    run(scene)
    before = scene.state.images()
    later(scene, 10_000 * DAY_S)
    assert (scene.commands, scene.state.images()) == ([], before)


def test_a_batch_goes_so_many_days_after_its_end_and_an_active_one_never(scene: Scene) -> None:
    scene.accept(20, "batch_2")
    scene.accept(20)
    scene.pause("batch_2")
    scene.wall += 30 * DAY_S
    scene.finish()
    later(scene, 7 * DAY_S - 10)
    assert list(scene.state.batches) == ["batch_2", "batch_1"]
    later(scene, 10)
    assert list(scene.state.batches) == ["batch_2"]
    assert [type(command) for command in scene.commands] == [RemoveBatch]
    assert list(scene.state.files) == ["file_in"]
    later(scene, 1000 * DAY_S)
    assert list(scene.state.batches) == ["batch_2"]


def test_an_expired_upload_is_served_no_more_and_stays_while_a_batch_needs_it(scene: Scene) -> None:
    soon = scene.wall + 3600.0
    scene.say(FileStored("r", File("file_free", "t", "batch", "a.jsonl", 1, scene.wall, expires_at=soon)))
    scene.say(FileStored("r", File("file_used", "t", "batch", "b.jsonl", 1, scene.wall, expires_at=soon)))
    scene.say(replace(ASKED, input_file_id="file_used"))
    scene.say(IntakeEnded("batch_1", 20, MODEL, 200, ()))
    later(scene, 3000.0)
    assert not any(file.deleted for file in scene.state.files.values())
    later(scene, 600.0)
    assert scene.commands == [RemoveBlob("file_free")]
    assert scene.state.files["file_used"].deleted
    scene.finish()
    later(scene, 1.0)
    assert scene.commands == []
    later(scene, 7 * DAY_S)
    assert RemoveBlob("file_used") in scene.commands
    assert list(scene.state.files) == ["file_in"]


def test_output_files_expire_so_long_after_they_came_to_be(scene: Scene) -> None:
    scene.say(replace(ASKED, output_expires_after_s=3600))
    scene.say(IntakeEnded("batch_1", 20, MODEL, 200, ()))
    scene.wall += DAY_S
    scene.finish(failed=1)
    shown = [scene.state.files[file_id] for file_id in ("file_out", "file_err")]
    assert [file.expires_at for file in shown] == [file.created_at + 3600 for file in shown]
    later(scene, 3500.0)
    assert not scene.state.files["file_out"].deleted
    later(scene, 100.0)
    assert scene.state.files["file_out"].deleted
    assert scene.state.files["file_err"].deleted
    assert scene.commands == []
    assert len(scene.state.parts["batch_1"]) == 1


def test_files_expire_so_many_days_after_they_came_to_be_unless_they_say_themselves() -> None:
    scene = Scene(Policy(keep_files_days=30.0))
    for file_id, expires_at in (("file_free", None), ("file_told", scene.wall + 3600.0)):
        file = File(file_id, "t", "batch", "a.jsonl", 1, scene.wall, expires_at=expires_at)
        stored = scene.say(FileStored("r", file))
        assert stored == scene.state.files[file_id]
        assert stored.expires_at == (expires_at or file.created_at + 30 * DAY_S)
    for number, expires_s in ((1, None), (2, 3600)):
        ids = {"batch_id": f"batch_{number}", "output_file_id": f"o{number}", "error_file_id": f"e{number}"}
        scene.say(replace(ASKED, output_expires_after_s=expires_s, **ids))
        scene.say(IntakeEnded(f"batch_{number}", 20, MODEL, 200, ()))
        scene.finish(batch_id=f"batch_{number}")
        output = scene.state.files[f"o{number}"]
        assert output.expires_at == output.created_at + (expires_s or 30 * DAY_S)


def test_batches_that_share_a_deleted_upload_and_go_together_take_it_along(scene: Scene) -> None:
    soon = scene.wall + DAY_S
    scene.say(FileStored("r", File("file_both", "t", "batch", "a.jsonl", 1, scene.wall, expires_at=soon)))
    for number in (1, 2):
        ids = {"batch_id": f"batch_{number}", "output_file_id": f"o{number}", "error_file_id": f"e{number}"}
        scene.say(replace(ASKED, input_file_id="file_both", **ids))
        scene.say(IntakeEnded(f"batch_{number}", 20, MODEL, 200, ()))
        scene.finish(batch_id=f"batch_{number}")
    later(scene, 8 * DAY_S)
    assert RemoveBlob("file_both") in scene.commands
    assert (scene.state.batches, list(scene.state.files)) == ({}, ["file_in"])


def test_one_commit_deletes_so_many_and_the_next_goes_on(scene: Scene) -> None:
    soon = scene.wall + 1000.0
    for number in range(DELETED_AT_ONCE_MAX + 1):
        file = File(f"file_{number}", "t", "batch", "a.jsonl", 1, scene.wall, expires_at=soon)
        scene.say(FileStored("r", file))
    later(scene, DAY_S)
    assert len(scene.commands) == DELETED_AT_ONCE_MAX
    later(scene, 1.0)
    assert len(scene.commands) == 1
