"""What is refused, why, and for how long: every refusal names the limit, the value found and the setting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raybatch.core.admission import (
    RETRY_AFTER_MAX_S,
    RETRY_AFTER_MIN_S,
    RETRY_AFTER_UNKNOWN_S,
    closed,
)
from raybatch.core.commands import Rejection
from raybatch.core.events import DrainAsked, EnginePhase, IntakeEnded
from raybatch.core.fitness import Fitness, GpuVerdict
from raybatch.core.model import BatchStatus, ModelSpan
from raybatch.core.policy import Policy
from tests.core.scene import ASKED, MODEL, Scene

UNFIT = GpuVerdict(Fitness.UNFIT, 0.0, ("GPU 0: 91 °C, gpu.temperature_max_c = 85",))
STRAINED = GpuVerdict(Fitness.STRAINED, 0.5, ("GPU 0: 81 °C",))


def ask(scene: Scene, number: int, *, lines: int = 10, **fields: Any) -> Any:
    scene.upload(f"file_{number}", lines)
    names = {"batch_id": f"batch_{number}", "input_file_id": f"file_{number}", "request_key": f"key {number}"}
    return scene.say(replace(ASKED, **(names | fields)))


def refusal(scene: Scene, number: int, **fields: Any) -> Rejection:
    answer = ask(scene, number, **fields)
    assert isinstance(answer, Rejection), answer
    assert f"batch_{number}" not in scene.state.batches
    assert scene.commands == []
    return answer


# -- limits ------------------------------------------------------------------------------------------------


def test_a_file_with_too_many_requests_is_refused_and_one_at_the_limit_is_taken() -> None:
    scene = Scene(Policy(requests_max=1_000))
    refused = refusal(scene, 1, lines=1_001)
    assert (refused.kind, refused.code, refused.param) == ("BadRequest", "too_many_tasks", "input_file_id")
    assert refused.retry_after_s is None
    for words in ("1,001", "1,000", "scheduler.requests_max"):
        assert words in refused.message
    assert ask(scene, 2, lines=1_000).batch_id == "batch_2"


def test_a_file_with_too_many_bytes_is_refused_and_one_at_the_limit_is_taken() -> None:
    scene = Scene(Policy(batch_bytes_max=99))  # every upload of a scene has 100
    refused = refusal(scene, 1)
    assert (refused.kind, refused.code, refused.param) == ("BadRequest", "file_too_large", "input_file_id")
    for words in ("has 100 bytes", "have 99", "scheduler.batch_bytes_max"):
        assert words in refused.message
    assert ask(Scene(Policy(batch_bytes_max=100)), 2).batch_id == "batch_2"
    assert ask(Scene(), 3).batch_id == "batch_3"


def test_a_batch_whose_tokens_would_be_too_many_fails_as_openais_do_until_others_have_run() -> None:
    scene = Scene(Policy(enqueued_tokens_max=1_000))
    scene.accept(60, "batch_1")  # ten tokens each
    scene.accept(40, "batch_2")
    scene.accept(1, "batch_3")
    scene.accept(100, "batch_4", model="another")
    failed = scene.batch("batch_3")
    assert [scene.batch(f"batch_{n}").status for n in (1, 2, 4)] == [BatchStatus.IN_PROGRESS] * 3
    (error,) = failed.errors
    assert (failed.status, error.code, error.param, error.line) == (
        "failed",
        "token_limit_exceeded",
        None,
        None,
    )
    words = (
        f"Enqueued token limit reached for {MODEL}. Limit: 1,000 enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )
    assert error.message.startswith(words)
    for words in ("about 10 tokens", "about 1,000 wait", "scheduler.enqueued_tokens_max"):
        assert words in error.message
    scene.finish(batch_id="batch_2")
    scene.accept(40, "batch_5")
    assert scene.batch("batch_5").status is BatchStatus.IN_PROGRESS


def test_tokens_are_counted_by_model_where_a_batch_has_several() -> None:
    scene = Scene(Policy(enqueued_tokens_max=1_000))
    scene.accept(80)
    spans = (ModelSpan("another", 0, 100, 1_000), ModelSpan(MODEL, 100, 30, 300))
    ask(scene, 2)
    scene.say(IntakeEnded("batch_2", 130, None, 1_300, (), spans))
    (error,) = scene.batch("batch_2").errors
    assert error.message.startswith(f"Enqueued token limit reached for {MODEL}.")
    ask(scene, 3)
    scene.say(
        IntakeEnded(
            "batch_3", 120, None, 1_200, (), (spans[0], replace(spans[1], count=20, expected_tokens=200))
        )
    )
    assert scene.batch("batch_3").status is BatchStatus.IN_PROGRESS


def test_a_tenant_may_have_so_many_active_batches_and_another_tenant_as_many_again() -> None:
    scene = Scene(Policy(active_batches_max=2))
    scene.accept(100, "batch_1")
    scene.accept(60, "batch_2")
    refused = refusal(scene, 3)
    assert (refused.kind, refused.code) == ("Busy", "too_many_batches")
    for words in ("2 batches", "2 may be", "scheduler.active_batches_max"):
        assert words in refused.message
    others = replace(scene.state.files["file_3"], file_id="file_other", tenant="other")
    scene.state.files["file_other"] = others
    answer = scene.say(replace(ASKED, batch_id="batch_4", tenant="other", input_file_id="file_other"))
    assert answer.batch_id == "batch_4"
    scene.cancel("batch_1")
    scene.wait(1.0)
    assert refusal(scene, 5).code == "too_many_batches"  # not ended yet
    scene.finish(batch_id="batch_2")
    assert ask(scene, 6).batch_id == "batch_6"


def test_rows_of_batches_still_validating_count_as_waiting_too() -> None:
    scene = Scene(Policy(queued_requests_max=100))
    assert ask(scene, 1, lines=70).batch_id == "batch_1"
    refused = refusal(scene, 2, lines=31)
    assert (refused.kind, refused.code) == ("Busy", "queue_full")
    for words in ("70 requests", "31", "100 may wait", "scheduler.queued_requests_max"):
        assert words in refused.message
    assert ask(scene, 3, lines=30).batch_id == "batch_3"
    scene.say(IntakeEnded("batch_1", 70, MODEL, 700, ()))
    scene.finish(batch_id="batch_1")
    assert ask(scene, 4, lines=70).batch_id == "batch_4"


def test_a_limit_of_no_batch_at_all_refuses_every_one() -> None:
    refused = refusal(Scene(Policy(active_batches_max=0)), 1)
    assert (refused.code, refused.retry_after_s) == ("too_many_batches", RETRY_AFTER_UNKNOWN_S)


def test_what_was_answered_before_is_answered_again_whatever_the_limits_say_now() -> None:
    scene = Scene(Policy(active_batches_max=1))
    first = ask(scene, 1, idempotency_key="k")
    scene.look_around(disk_free_bytes=0)
    assert scene.say(replace(ASKED, batch_id="batch_1")) == first
    assert ask(scene, 2, idempotency_key="k") == first


# -- how long to wait --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows_per_s", "retry_after_s"),
    [
        (0.0, RETRY_AFTER_UNKNOWN_S),
        (2.0, 30),  # the smallest batch has 60 rows left
        (4.0, 15),
        (1e6, RETRY_AFTER_MIN_S),
        (1e-6, RETRY_AFTER_MAX_S),
        (float("nan"), RETRY_AFTER_UNKNOWN_S),
        (float("inf"), RETRY_AFTER_MIN_S),
    ],
)
def test_retry_after_follows_the_engines_pace(rows_per_s: float, retry_after_s: int) -> None:
    scene = Scene(Policy(active_batches_max=2))
    scene.accept(100, "batch_1")
    scene.accept(60, "batch_2")
    scene.report(rows_per_s=rows_per_s)
    assert refusal(scene, 3).retry_after_s == retry_after_s


def test_retry_after_adds_up_engines_and_leaves_lost_ones_out() -> None:
    scene = Scene(Policy(queued_requests_max=1_000))
    scene.accept(1_000)
    scene.report("e1", rows_per_s=1.0)
    scene.report("e2", rows_per_s=3.0)
    assert refusal(scene, 2, lines=200).retry_after_s == 50  # until 200 of the 1,000 have gone
    scene.wait(scene.policy.engine_silent_s - 1.0)
    scene.report("e1", rows_per_s=1.0)
    scene.wait(2.0)
    assert refusal(scene, 3, lines=200).retry_after_s == 200


def test_a_batch_that_is_validating_is_waited_for_by_its_lines() -> None:
    scene = Scene(Policy(active_batches_max=1))
    ask(scene, 1, lines=400)
    scene.report(rows_per_s=4.0)
    assert refusal(scene, 2).retry_after_s == 100


# -- closed doors ------------------------------------------------------------------------------------------


def test_a_disk_that_runs_low_closes_the_door_until_there_is_space() -> None:
    scene = Scene(Policy(disk_free_bytes_min=5_000))
    scene.look_around(disk_free_bytes=4_999)
    refused = refusal(scene, 1)
    assert (refused.kind, refused.code) == ("Unavailable", "disk_low")
    assert refused.retry_after_s is not None
    for words in ("4,999", "5,000", "scheduler.disk_free_bytes_min"):
        assert words in refused.message
    scene.look_around(disk_free_bytes=5_000)
    assert ask(scene, 2).batch_id == "batch_2"


def test_an_unfit_gpu_closes_the_door_only_while_no_engine_may_work() -> None:
    scene = Scene()
    scene.report("e1", verdict=UNFIT)
    refused = refusal(scene, 1)
    assert (refused.kind, refused.code) == ("Unavailable", "gpu_unfit")
    assert UNFIT.reasons[0] in refused.message  # value, limit and setting are in there
    assert refused.retry_after_s is not None
    scene.report("e2", verdict=STRAINED)
    assert closed(scene.state, scene.policy) is None
    scene.report("e2", phase=EnginePhase.FAILED, error="no such model")
    assert refusal(scene, 2).code == "gpu_unfit"
    scene.report("e1")
    assert ask(scene, 3).batch_id == "batch_3"


def test_engines_that_load_or_were_never_heard_of_keep_the_door_open() -> None:
    scene = Scene()
    assert closed(scene.state, scene.policy) is None
    scene.report("e1", phase=EnginePhase.LOADING)
    assert closed(scene.state, scene.policy) is None
    scene.report("e1", phase=EnginePhase.FAILED, error="no such model")
    assert closed(scene.state, scene.policy) is None  # the model's fault, not the server's


def test_draining_is_told_before_anything_else() -> None:
    scene = Scene(Policy(active_batches_max=0))
    scene.look_around(disk_free_bytes=0)
    scene.say(DrainAsked("r", True))
    assert refusal(scene, 1).code == "draining"


def test_a_shut_door_lets_running_batches_go_on() -> None:
    scene = Scene()
    scene.accept(50)
    scene.look_around(disk_free_bytes=0)
    assert scene.report(wants_rows=16).leases
