"""One reading in, one verdict out: where it falls, where it recovers, and what never passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybatch.core.fitness import (
    FIT,
    Fitness,
    GpuLimits,
    GpuReading,
    GpuVerdict,
    Throttle,
    judge,
)

LIMITS = GpuLimits()
COOL = GpuReading(0, "GPU-a", "NVIDIA H200", 100_000, 85_000, 0, 60, 500.0, 700.0, 1.0)
OTHER = replace(COOL, index=1, uuid="GPU-b")


def verdicts(*readings: GpuReading, limits: GpuLimits = LIMITS) -> list[GpuVerdict]:
    """Of one GPU, one after the other."""
    told, before = [], FIT
    for reading in readings:
        before = judge(before, (reading,), limits)
        told.append(before)
    return told


def letters(told: list[GpuVerdict]) -> str:
    return "".join(verdict.fitness.value[0] for verdict in told)


@pytest.mark.parametrize(
    ("degrees_c", "expected"),
    [
        ([60, 79, 60], "fff"),
        ([80, 79, 75, 74], "sssf"),
        ([84, 85, 84, 79, 75, 74], "suuuuf"),
        ([85, 74, 79, 80], "uffs"),
        ([90, 80, 84, 75], "uuuu"),
    ],
)
def test_heat_falls_at_one_figure_and_recovers_at_a_lower_one(degrees_c: list[int], expected: str) -> None:
    assert letters(verdicts(*(replace(COOL, temperature_c=at) for at in degrees_c))) == expected


@pytest.mark.parametrize(
    ("others", "expected"),
    [([14_900, 15_000], "ff"), ([15_100, 13_000, 12_001, 12_000, 13_000], "uuuff")],
)
def test_memory_of_others_pauses_and_resumes_lower(others: list[int], expected: str) -> None:
    assert letters(verdicts(*(replace(COOL, memory_others_bytes=held) for held in others))) == expected


def test_the_memory_vllm_reserved_is_no_pressure() -> None:
    (verdict,) = verdicts(replace(COOL, memory_used_bytes=97_000))
    assert verdict.fitness is Fitness.FIT


@pytest.mark.parametrize("reason", [reason for reason in Throttle if reason is not Throttle.SW_POWER_CAP])
def test_a_slowdown_halves_the_window_until_it_was_calm_for_a_while(reason: Throttle) -> None:
    slow = replace(COOL, throttle_reasons=(reason.value,))
    told = verdicts(slow, COOL, slow, COOL, COOL, COOL, limits=GpuLimits(throttle_calm_readings=3))
    assert letters(told) == "sssssf"
    assert [verdict.window_share for verdict in told] == [0.5] * 5 + [1.0]


def test_the_power_limit_at_work_is_normal() -> None:
    (verdict,) = verdicts(replace(COOL, throttle_reasons=(Throttle.SW_POWER_CAP.value,)))
    assert verdict.fitness is Fitness.FIT


def test_a_lost_gpu_stays_unfit_although_it_answers_again() -> None:
    told = verdicts(COOL, replace(COOL, lost="XID 79, the GPU has fallen off the bus"), COOL)
    assert letters(told) == "fuu"
    assert told[-1].needs_restart
    assert told[-1].reasons == (
        "GPU 0 (NVIDIA H200) is lost: XID 79, the GPU has fallen off the bus; its engine must start anew",
    )
    assert judge(told[-1], (), LIMITS).reasons == told[-1].reasons
    assert judge(FIT, (COOL,), LIMITS).fitness is Fitness.FIT


def test_memory_errors_from_before_are_not_held_against_a_gpu_and_new_ones_are() -> None:
    counts = [replace(COOL, ecc_uncorrected=count) for count in (7, 7, 8, 7)]
    told = verdicts(*counts)
    assert letters(told) == "ffuu"
    assert "1 new uncorrectable memory errors, gpu.ecc_uncorrected_max = 0" in told[-1].reasons[0]
    assert letters(verdicts(*counts, limits=GpuLimits(ecc_uncorrected_max=1))) == "ffff"


def test_a_driver_that_was_loaded_again_counts_its_errors_from_zero() -> None:
    assert letters(verdicts(*(replace(COOL, ecc_uncorrected=count) for count in (7, 0, 1)))) == "ffu"


def test_the_worst_gpu_decides_and_every_gpu_says_its_reasons() -> None:
    hot = replace(COOL, temperature_c=82)
    verdict = judge(FIT, (hot, replace(OTHER, temperature_c=88, memory_others_bytes=40_000)), LIMITS)
    assert (verdict.fitness, verdict.window_share) == (Fitness.UNFIT, 0.0)
    assert verdict.reasons == (
        "GPU 0 (NVIDIA H200): 82 °C, having reached gpu.temperature_strained_c = 80; "
        "until below gpu.temperature_resume_c = 75",
        "GPU 1 (NVIDIA H200): 88 °C, having reached gpu.temperature_max_c = 85; "
        "until below gpu.temperature_resume_c = 75",
        "GPU 1 (NVIDIA H200): other processes hold 0.40 of its memory (0 MiB), "
        "gpu.memory_others_max = 0.15; until gpu.memory_others_resume = 0.12",
    )
    assert not verdict.needs_restart


def test_one_gpu_remembers_nothing_of_another() -> None:
    before = judge(FIT, (replace(COOL, temperature_c=90), OTHER), LIMITS)
    after = judge(before, (replace(OTHER, temperature_c=78), COOL), LIMITS)
    assert after.fitness is Fitness.FIT


def test_without_a_gpu_everything_is_fit() -> None:
    assert judge(FIT, (), LIMITS) == FIT


READINGS = st.builds(
    replace,
    st.sampled_from([COOL, OTHER]),
    temperature_c=st.integers(0, 100),
    memory_others_bytes=st.integers(0, 30_000),
    throttle_reasons=st.lists(st.sampled_from([reason.value for reason in Throttle]), max_size=2).map(tuple),
    ecc_uncorrected=st.integers(0, 2),
    lost=st.sampled_from([None, None, None, "GPU is lost"]),
)


@given(st.lists(READINGS, max_size=30))
def test_whatever_is_read_the_verdict_has_reasons_and_what_is_broken_stays_so(
    readings: list[GpuReading],
) -> None:
    before = FIT
    for reading in readings:
        verdict = judge(before, (reading,), LIMITS)
        assert bool(verdict.reasons) == (verdict.fitness is not Fitness.FIT)
        assert (verdict.window_share == 0.0) == (verdict.fitness is Fitness.UNFIT)
        assert verdict.needs_restart or not before.needs_restart
        assert not verdict.needs_restart or verdict.fitness is Fitness.UNFIT
        if reading.temperature_c >= LIMITS.temperature_max_c and not reading.lost:
            assert verdict.fitness is Fitness.UNFIT
        before = verdict
    assert judge(before, (), LIMITS).needs_restart == before.needs_restart
