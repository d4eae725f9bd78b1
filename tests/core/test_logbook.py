"""What the logs of batches and engines say: each fact once, the newest 200, nothing of anybody's text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raybatch.core.events import DrainAsked, EnginePhase, FileStored, IntakeEnded
from raybatch.core.fitness import FIT, Fitness, GpuVerdict
from raybatch.core.model import File, LineError, RowSpan
from raybatch.core.state import LOG_ENTRIES_MAX
from tests.core.scene import ASKED, MODEL, Scene, slice_of

SECRET = "the text of a prompt"


@pytest.fixture
def scene() -> Scene:
    return Scene()


def kinds(scene: Scene, subject: str = "batch_1") -> list[str]:
    return [entry.kind for entry in scene.log(subject)]


def test_the_life_of_a_batch_in_its_log(scene: Scene) -> None:
    scene.accept(100)
    (lease,) = scene.report(wants_rows=16).leases
    scene.write("p1", slice_of(lease))
    scene.pause()
    scene.pause()
    scene.pause(on=False)
    scene.finish(failed=2)
    scene.retry(RowSpan(16, 0b11, 1))
    scene.finish()
    told = [(entry.kind, entry.message) for entry in scene.log()]
    assert told == [
        ("created", "created from file_in with priority 0"),
        ("validated", f"100 requests for {MODEL}, about 1,000 tokens"),
        ("started", "e1 took the first rows"),
        ("progress", "16 of 100 rows are committed"),
        ("paused", "no further row is started"),
        ("resumed", "rows are started again"),
        ("ended", "every row is committed"),
        ("retried", "2 failed requests run again, as round 2"),
        ("ended", "every row is committed"),
    ]
    assert {entry.batch_id for entry in scene.log()} == {"batch_1"}
    assert [entry.at for entry in scene.log()] == sorted(entry.at for entry in scene.log())


def test_a_milestone_a_tenth_and_never_one_a_row(scene: Scene) -> None:
    scene.accept(1_000)
    (lease,) = scene.report(wants_rows=1_000, window=2_000).leases
    for offset in range(0, 1_000, 5):
        scene.write(f"p{offset}", slice_of(lease, 0b11111 << offset))
    assert [entry.message for entry in scene.log() if entry.kind == "progress"] == [
        f"{rows} of 1,000 rows are committed" for rows in range(100, 1_000, 100)
    ]


def test_reports_and_ticks_of_smooth_work_leave_no_entry(scene: Scene) -> None:
    scene.accept(1_000)
    leases = scene.report(wants_rows=16).leases
    before = dict(scene.state.log)
    for _ in range(50):
        leases += scene.report(held=leases, wants_rows=16).leases
        scene.wait(1.0)
    assert scene.state.log == before


def test_rows_that_come_back_are_told_once_with_who_had_them(scene: Scene) -> None:
    scene.accept(1_000)
    scene.report(wants_rows=64, window=8)
    scene.report(held=(), wants_rows=0)
    scene.report(held=(), wants_rows=0)
    released = [entry for entry in scene.log() if entry.kind == "released"]
    assert [(entry.message, entry.engine_id) for entry in released] == [
        ("64 rows that e1 had are free again", "e1")
    ]


def test_a_batch_cancelled_before_it_began_has_no_beginning_in_its_log(scene: Scene) -> None:
    scene.accept(20)
    scene.cancel()
    scene.cancel()
    scene.wait(1.0)
    assert kinds(scene) == ["created", "validated", "cancelling"]


def test_a_failed_batch_says_what_is_wrong_and_where_but_not_what_it_read(scene: Scene) -> None:
    scene.say(ASKED)
    error = LineError("invalid_json", f"{SECRET} is not JSON", SECRET, 3)
    scene.say(IntakeEnded("batch_1", 0, None, 0, (error, error)))
    assert scene.log()[-1].message == "2 errors found, the first is invalid_json on line 3"


def test_no_log_quotes_what_belongs_to_a_client(scene: Scene) -> None:
    scene.say(FileStored("r", File("file_s", "t", "batch", f"{SECRET}.jsonl", 1, 0.0, lines=1)))
    asked = replace(ASKED, input_file_id="file_s", metadata={"k": SECRET}, idempotency_key=SECRET)
    scene.say(replace(asked, request_key=SECRET))
    scene.say(IntakeEnded("batch_1", 20, MODEL, 200, ()))
    scene.finish(failed=1)
    scene.retry(RowSpan(0, 0b1, 1))
    scene.cancel()
    assert SECRET not in repr(scene.state.log)


# -- engines -----------------------------------------------------------------------------------------------


def test_an_engine_tells_each_phase_once_and_every_birth(scene: Scene) -> None:
    for phase in (EnginePhase.LOADING, EnginePhase.LOADING, EnginePhase.READY, EnginePhase.READY):
        scene.report(phase=phase, load_s=41.7)
    scene.report(phase=EnginePhase.DIED, error="it hangs")
    scene.report(incarnation=2.0, phase=EnginePhase.LOADING)
    scene.report(incarnation=2.0, phase=EnginePhase.FAILED, error="no such repository")
    scene.report(incarnation=3.0, phase=EnginePhase.FAILED, error="no such repository")
    assert [(entry.kind, entry.message) for entry in scene.log("e1")] == [
        ("loading", MODEL),
        ("ready", f"{MODEL} loaded in 42 s"),
        ("died", f"{MODEL}: it hangs"),
        ("loading", MODEL),
        ("failed", f"{MODEL} could not be loaded: no such repository"),
        ("failed", f"{MODEL} could not be loaded: no such repository"),
    ]
    assert {entry.engine_id for entry in scene.log("e1")} == {"e1"}


def test_a_slot_tells_of_its_swaps(scene: Scene) -> None:
    for incarnation, phase, model in (
        (1.0, EnginePhase.IDLE, None),
        (1.0, EnginePhase.READY, "a"),
        (1.0, EnginePhase.STOPPED, "a"),
        (2.0, EnginePhase.READY, "b"),
    ):
        scene.report("slot", slot=True, incarnation=incarnation, phase=phase, model=model)
    assert [(entry.kind, entry.message) for entry in scene.log("slot")] == [
        ("idle", "no model"),
        ("ready", "a loaded in 0 s"),
        ("stopped", "a"),
        ("ready", "b loaded in 0 s"),
    ]


def test_a_gpus_verdict_is_told_when_it_changes_with_its_reasons(scene: Scene) -> None:
    hot = GpuVerdict(Fitness.UNFIT, 0.0, ("GPU 0: 91 °C", "GPU 1: 92 °C"))
    hotter = replace(hot, reasons=("GPU 0: 93 °C",))
    for verdict in (FIT, hot, hotter, replace(hot, fitness=Fitness.STRAINED), FIT, FIT):
        scene.report(verdict=verdict)
    told = [(entry.kind, entry.message) for entry in scene.log("e1") if entry.kind.startswith("gpu_")]
    assert told == [
        ("gpu_unfit", "GPU 0: 91 °C; GPU 1: 92 °C"),
        ("gpu_strained", "GPU 0: 91 °C; GPU 1: 92 °C"),
        ("gpu_fit", "the GPU is fit to work again"),
    ]


def test_a_lost_engine_is_told_once(scene: Scene) -> None:
    scene.report()
    for _ in range(3):
        scene.wait(scene.policy.engine_silent_s + 1.0)
    assert kinds(scene, "e1") == ["ready", "lost"]


# -- kept --------------------------------------------------------------------------------------------------


def test_the_newest_entries_of_each_subject_are_kept_also_over_a_restart(scene: Scene) -> None:
    scene.accept(20, "batch_1")
    scene.accept(20, "batch_2")
    for _ in range(LOG_ENTRIES_MAX):
        scene.pause("batch_2")
        scene.pause("batch_2", on=False)
        scene.pause(None)
        scene.pause(None, on=False)
    kept = {subject: scene.log(subject) for subject in ("batch_1", "batch_2", "")}
    assert [len(entries) for entries in kept.values()] == [2, LOG_ENTRIES_MAX, LOG_ENTRIES_MAX]
    assert len(scene.state.log) == 2 + 2 * LOG_ENTRIES_MAX
    newest = scene.state.next_entry_id
    scene.restart()
    assert {subject: scene.log(subject) for subject in kept} == kept
    assert scene.state.next_entry_id == newest
    scene.pause("batch_1")
    assert scene.log()[-1].entry_id == newest


def test_what_is_forgotten_with_the_process_is_not_logged(scene: Scene) -> None:
    scene.say(DrainAsked("r", True))
    scene.look_around(disk_free_bytes=0)
    assert scene.state.log == {}
