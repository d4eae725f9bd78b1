"""The real NVML binding against a stand-in for the driver's library, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from jobs.nvml_standin import (
    SONAME,
    Card,
    Held,
    Scene,
    compile_standin,
    environment,
    write_scene,
)
from raybatch.core.fitness import FIT, Fitness, GpuLimits, GpuReading, Throttle, judge
from raybatch.errors import OperatorError
from tests.gpu.reader import Reader, reader

MIB = 1 << 20
STRANGER = os.getpid()  #: a process that lives and is not the reader
NOBODY = (1 << 22) + 1  #: above Linux's highest pid: a process of another pid namespace looks like this

Play = Callable[..., None]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_standin(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def scene_path(tmp_path: Path) -> Path:
    write_scene(tmp_path / "scene", Scene())
    return tmp_path / "scene"


@pytest.fixture
def watch(library: Path, scene_path: Path) -> Iterator[Callable[..., Reader]]:
    """Start a reader; keywords are further variables of its environment."""
    with ExitStack() as stack:
        yield lambda **variables: stack.enter_context(reader(environment(library, scene_path) | variables))


@pytest.fixture
def play(scene_path: Path) -> Play:
    """Put these cards on the stage."""
    return lambda *cards, init=0: write_scene(scene_path, Scene(cards, init))


def one(readings: tuple[GpuReading, ...]) -> GpuReading:
    (reading,) = readings
    return reading


def test_a_card_at_work_is_read_whole(watch: Callable[..., Reader], play: Play) -> None:
    capped_and_hot = pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonHwThermalSlowdown
    idle = pynvml.nvmlClocksEventReasonGpuIdle
    play(Card("GPU-a", memory_used_bytes=900 * MIB, throttle_mask=capped_and_hot | idle, ecc_uncorrected=3))
    assert watch().read() == (
        GpuReading(
            index=0,
            uuid="GPU-a",
            name="NVIDIA GeForce RTX 4080",
            memory_total_bytes=16 << 30,
            memory_used_bytes=900 * MIB,
            memory_others_bytes=900 * MIB,
            temperature_c=60,
            power_w=200.0,
            power_limit_w=320.0,
            utilization=0.9,
            throttle_reasons=(Throttle.SW_POWER_CAP, Throttle.HW_THERMAL),
            ecc_uncorrected=3,
        ),
    )


def test_memory_of_others_leaves_out_ours_and_counts_a_process_once(
    watch: Callable[..., Reader], play: Play
) -> None:
    started = watch()
    stranger = (Held(STRANGER, 700 * MIB), Held(STRANGER, 700 * MIB, draws=True))
    desktop = Held(os.getppid(), 50 * MIB, draws=True)
    play(Card(memory_used_bytes=9000 * MIB, processes=(Held(started.pid, 8000 * MIB), *stranger, desktop)))
    assert one(started.read()).memory_others_bytes == 750 * MIB


@pytest.mark.parametrize(
    "listed",
    [(), (Held(STRANGER, None),), (Held(NOBODY, 13_000 * MIB),)],
    ids=["no process", "no size", "pids of another namespace"],
)
def test_where_the_driver_hides_processes_what_was_in_use_before_the_model_stands_for_the_others(
    watch: Callable[..., Reader], play: Play, listed: tuple[Held, ...]
) -> None:
    play(Card(memory_used_bytes=800 * MIB, processes=listed))
    started = watch()
    assert one(started.read()).memory_others_bytes == 800 * MIB
    play(Card(memory_used_bytes=14_000 * MIB, processes=listed))
    assert one(started.read()).memory_others_bytes == 800 * MIB
    play(Card(memory_used_bytes=300 * MIB, processes=listed))
    assert one(started.read()).memory_others_bytes == 300 * MIB


def test_what_a_card_does_not_tell_stays_neutral_and_the_rest_is_read(
    watch: Callable[..., Reader], play: Play
) -> None:
    silent = ("ecc_uncorrected", "power_mw", "power_limit_mw", "utilization_percent", "throttle_mask")
    play(Card(temperature_c=71, ecc_uncorrected=9, throttle_mask=0xFF, unsupported=silent))
    seen = one(watch().read())
    assert (seen.lost, seen.temperature_c, seen.memory_total_bytes) == (None, 71, 16 << 30)
    assert (seen.ecc_uncorrected, seen.power_w, seen.power_limit_w, seen.utilization) == (0, 0.0, 0.0, 0.0)
    assert seen.throttle_reasons == ()


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED])
def test_a_lost_card_keeps_its_last_figures_and_is_found_again(
    watch: Callable[..., Reader], play: Play, code: int
) -> None:
    play(Card("GPU-a", temperature_c=66), Card("GPU-b"))
    started = watch()
    started.read()
    play(Card("GPU-a", temperature_c=20, status=code), Card("GPU-b", temperature_c=61))
    lost, other = started.read()
    assert lost.temperature_c == 66
    assert lost.lost == f"NVML says: {pynvml.NVMLError(code)}"
    assert (other.lost, other.temperature_c) == (None, 61)
    assert [seen.lost is None for seen in started.read()] == [False, True]
    play(Card("GPU-a", temperature_c=40), Card("GPU-b", temperature_c=62))
    found = [started.read() for _ in range(12)][-1]
    assert [(seen.temperature_c, seen.lost) for seen in found] == [(40, None), (62, None)]


def test_a_card_is_found_again_by_its_uuid_when_the_indices_have_moved(
    watch: Callable[..., Reader], play: Play
) -> None:
    play(Card("GPU-a"), Card("GPU-b", status=pynvml.NVML_ERROR_TIMEOUT))
    started = watch(CUDA_VISIBLE_DEVICES="1")
    assert one(started.read()).lost is None
    play(Card("GPU-a"), Card("GPU-b"))
    assert one(started.read()).uuid == "GPU-b"
    play(Card("GPU-a"), Card("GPU-b", status=pynvml.NVML_ERROR_GPU_IS_LOST))
    assert [one(started.read()).lost for _ in range(2)] == ["NVML says: GPU is lost"] * 2
    play(Card("GPU-b", temperature_c=40))
    seen = one(started.read())
    assert (seen.uuid, seen.index, seen.temperature_c, seen.lost) == ("GPU-b", 0, 40, None)


def test_a_card_that_is_lost_from_the_start_is_a_lost_reading_and_not_an_absent_one(
    watch: Callable[..., Reader], play: Play
) -> None:
    play(Card("GPU-a", status=pynvml.NVML_ERROR_GPU_IS_LOST))
    started = watch(CUDA_VISIBLE_DEVICES="GPU-a")
    seen = one(started.read())
    assert (seen.uuid, seen.lost, started.absent) == ("GPU-a", "NVML says: GPU is lost", None)
    (reason,) = judge(FIT, (seen,), GpuLimits()).reasons
    assert reason.startswith("GPU GPU-a is lost: NVML says")


def test_without_the_variable_a_card_that_is_forbidden_to_us_is_passed_over(
    watch: Callable[..., Reader], play: Play
) -> None:
    play(Card("GPU-a", status=pynvml.NVML_ERROR_NO_PERMISSION), Card("GPU-b"))
    assert one(watch().read()).uuid == "GPU-b"


def test_one_timeout_is_forgiven_and_the_third_in_a_row_is_a_loss(
    watch: Callable[..., Reader], play: Play
) -> None:
    started = watch()
    silent = Card(status=pynvml.NVML_ERROR_TIMEOUT)
    heard = []
    for card in (Card(), silent, silent, Card(), silent, silent, silent):
        play(card)
        heard.append(one(started.read()).lost)
    assert heard == [None] * 6 + ["NVML says: Timeout"]


def test_a_driver_that_goes_away_under_the_watch_is_a_loss(watch: Callable[..., Reader], play: Play) -> None:
    started = watch()
    started.read()
    play(Card(status=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    assert [one(started.read()).lost for _ in range(5)] == ["NVML says: Driver Not Loaded"] * 5
    play(Card(temperature_c=33))
    assert [one(started.read()).lost for _ in range(12)][-1] is None


@pytest.mark.parametrize("xid", [48, 79, 94, 95])
def test_a_fatal_xid_is_a_loss_that_stays_on_the_card_it_hit(
    watch: Callable[..., Reader], play: Play, xid: int
) -> None:
    play(Card("GPU-a", xids=(79,)), Card("GPU-b"))  # one before we came is not ours
    started = watch()
    assert [seen.lost for seen in started.read()] == [None, None]
    play(Card("GPU-a", xids=(79,)), Card("GPU-b", xids=(31, xid)))
    for _ in range(2):
        healthy, hit = started.read()
        assert healthy.lost is None
        assert hit.lost is not None
        assert hit.lost.startswith(f"XID {xid}, ")


def test_an_xid_of_some_program_or_a_repaired_row_is_no_loss(
    watch: Callable[..., Reader], play: Play
) -> None:
    started = watch()
    started.read()
    play(Card(xids=(13, 31, 43, 45, 63, 92)))
    assert one(started.read()).lost is None


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        (None, ["GPU-aa", "GPU-ab", "GPU-c"]),
        ("2,0", ["GPU-c", "GPU-aa"]),
        ("GPU-ab,1", ["GPU-ab", "GPU-ab"]),
        ("GPU-c", ["GPU-c"]),
        ("GPU", []),
        ("0,7,1", ["GPU-aa"]),
        ("", []),
        ("-1", []),
    ],
)
def test_only_the_cards_cuda_shows_this_process_are_read(
    watch: Callable[..., Reader], play: Play, visible: str | None, uuids: list[str]
) -> None:
    play(Card("GPU-aa"), Card("GPU-ab"), Card("GPU-c"))
    started = watch(**({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}))
    assert [seen.uuid for seen in started.read()] == uuids
    named = f"the driver has no GPU for this process that CUDA_VISIBLE_DEVICES='{visible}' names"
    assert started.absent == (None if uuids else named)


def test_a_mig_slice_has_memory_of_its_own_and_the_rest_from_its_parent(
    watch: Callable[..., Reader], play: Play
) -> None:
    neighbour = (Held(STRANGER, 60 << 30),)
    parent = Card("GPU-a", "NVIDIA H200", memory_used_bytes=80 << 30, temperature_c=77, processes=neighbour)
    mig = Card(
        "MIG-1", "NVIDIA H200 MIG 1g.18gb", parent=0, memory_total_bytes=18 << 30, memory_used_bytes=MIB
    )
    play(parent, mig)
    started = watch(CUDA_VISIBLE_DEVICES="MIG-1")
    seen = one(started.read())
    assert (seen.uuid, seen.index, seen.temperature_c) == ("MIG-1", 0, 77)
    assert (seen.memory_total_bytes, seen.memory_others_bytes) == (18 << 30, MIB)
    play(replace(parent, xids=(95,)), mig)
    assert one(started.read()).lost == "XID 95, uncontained memory error"


def test_without_a_driver_there_is_nothing_to_read_and_the_watch_says_why(
    watch: Callable[..., Reader], play: Play, tmp_path: Path
) -> None:
    play(init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    started = watch()
    assert started.read() == ()
    assert started.absent == "NVML does not start: Driver Not Loaded"
    (tmp_path / SONAME).touch()  # a file that is no library
    started = watch(LD_LIBRARY_PATH=str(tmp_path))
    assert started.read() == ()
    assert started.absent == "no NVIDIA driver: libnvidia-ml.so.1 is not found"


def test_a_night_on_the_desktop_from_reading_to_verdict(watch: Callable[..., Reader], play: Play) -> None:
    started = watch()
    mine = Held(started.pid, 13_600 * MIB)
    game = Held(STRANGER, 3_000 * MIB)
    calm = Card("GPU-a", processes=(mine,))
    limits = GpuLimits(throttle_calm_readings=1)
    verdict, told = FIT, []
    for card in (
        calm,
        replace(calm, temperature_c=81),
        replace(calm, temperature_c=86),
        replace(calm, temperature_c=79),
        replace(calm, temperature_c=74),
        replace(calm, processes=(mine, game)),
        calm,
        replace(calm, throttle_mask=pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown),
        calm,
        replace(calm, ecc_uncorrected=1),
        calm,
    ):
        play(card)
        verdict = judge(verdict, started.read(), limits)
        told.append((verdict.fitness, verdict.window_share))
    fit, strained, unfit = (Fitness.FIT, 1.0), (Fitness.STRAINED, 0.5), (Fitness.UNFIT, 0.0)
    assert told == [fit, strained, unfit, unfit, fit, unfit, fit, strained, fit, unfit, unfit]
    assert verdict.needs_restart


def test_without_a_compiler_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OperatorError, match="install gcc or clang"):
        compile_standin(tmp_path)
