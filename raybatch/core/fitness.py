"""Is a GPU fit to work? Readings in, one verdict out, with hysteresis. Reads nothing itself.

Heat and others' memory come and go: the verdict recovers at a lower figure than it fell at, so that it does
not flutter. A lost GPU and a new uncorrectable memory error do not pass: the engine process must start anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class Throttle(StrEnum):
    """Why the driver holds a GPU's clocks down, in the words of ``nvidia-smi``."""

    SW_POWER_CAP = "SW Power Cap"  #: the power limit at work: normal under load
    HW_SLOWDOWN = "HW Slowdown"
    SW_THERMAL = "SW Thermal Slowdown"
    HW_THERMAL = "HW Thermal Slowdown"
    HW_POWER_BRAKE = "HW Power Brake Slowdown"


STRAINING: Final = frozenset(Throttle) - {Throttle.SW_POWER_CAP}


@dataclass(frozen=True, slots=True)
class GpuLimits:
    """The settings under ``gpu``."""

    temperature_max_c: int = 85  #: at it no new row starts
    temperature_strained_c: int = 80  #: at it the engine's window shrinks
    temperature_resume_c: int = 75  #: below it both are over
    #: share of the card: what vLLM leaves (vllm.gpu_memory_utilization = 0.85). Beyond it the engine cannot
    #: start, or a program of the desktop cannot. What vLLM itself reserved is ours and never counts
    memory_others_max: float = 0.15
    memory_others_resume: float = 0.12  #: at most so much, and rows start again
    throttle_calm_readings: int = 10  #: in a row without a slowdown, until the window is whole again
    ecc_uncorrected_max: int = 0  #: uncorrectable memory errors since the first reading
    window_share_strained: float = 0.5  #: of the engine's window, while strained


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What the driver says about one GPU at one moment. A figure the card does not tell is 0."""

    index: int
    uuid: str
    name: str  #: empty while a card was never reached; index and uuid are then what CUDA_VISIBLE_DEVICES says
    memory_total_bytes: int
    memory_used_bytes: int  #: by everybody
    memory_others_bytes: int  #: by processes that are not ours
    temperature_c: int
    power_w: float
    power_limit_w: float
    utilization: float  #: 0..1
    throttle_reasons: tuple[str, ...] = ()  #: those that slow it down, in the driver's words
    ecc_uncorrected: int = 0  #: uncorrectable memory errors since the driver was loaded
    lost: str | None = None  #: why the driver cannot reach it any more; the other figures are the last ones


class Fitness(StrEnum):
    FIT = "fit"
    STRAINED = "strained"  #: works on, with a smaller window
    UNFIT = "unfit"  #: starts no new row


@dataclass(frozen=True, slots=True)
class GpuPast:
    """What a verdict remembers of one GPU for the next one."""

    uuid: str
    ecc_at_first: int  #: of the first reading: errors of yesterday are not held against it
    heat: Fitness = Fitness.FIT
    crowded: bool = False  #: others hold too much of its memory
    slow_readings: int = 0  #: so many more readings it counts as slowed down
    broken: str | None = None  #: why it is unfit for as long as this process lives


@dataclass(frozen=True, slots=True)
class GpuVerdict:
    fitness: Fitness = Fitness.FIT
    window_share: float = 1.0  #: of the engine's window, 0 when unfit
    reasons: tuple[str, ...] = ()  #: in words, each with value, limit and setting
    pasts: tuple[GpuPast, ...] = ()  #: for the next verdict only

    @property
    def needs_restart(self) -> bool:
        """Waiting does not help: the engine process must start anew."""
        return any(past.broken for past in self.pasts)


FIT = GpuVerdict()


def judge(before: GpuVerdict, readings: tuple[GpuReading, ...], limits: GpuLimits) -> GpuVerdict:
    """The verdict on all GPUs of one engine: the worst of them decides. Without a GPU everything is fit."""
    known = {past.uuid: past for past in before.pasts}
    judged = [(_remembered(known.pop(seen.uuid, None), seen, limits), seen) for seen in readings]
    gone = [past for past in known.values() if past.broken]
    found = [finding for past, seen in judged for finding in _findings(past, seen, limits)]
    found += [(Fitness.UNFIT, past.broken) for past in gone if past.broken]
    fitness = _worst(level for level, _ in found)
    return GpuVerdict(
        fitness,
        {Fitness.FIT: 1.0, Fitness.STRAINED: limits.window_share_strained, Fitness.UNFIT: 0.0}[fitness],
        reasons=tuple(why for _, why in found),
        pasts=(*(past for past, _ in judged), *gone),
    )


def _remembered(past: GpuPast | None, seen: GpuReading, limits: GpuLimits) -> GpuPast:
    past = past or GpuPast(seen.uuid, seen.ecc_uncorrected)
    broken = past.broken or _broken(past, seen, limits)
    if broken:
        return replace(past, broken=broken)
    others_max = limits.memory_others_resume if past.crowded else limits.memory_others_max
    return GpuPast(
        seen.uuid,
        ecc_at_first=min(past.ecc_at_first, seen.ecc_uncorrected),  # a driver loaded again counts from 0
        heat=_heat(past.heat, seen.temperature_c, limits),
        crowded=_share_of_others(seen) > others_max,
        slow_readings=limits.throttle_calm_readings if _slowdowns(seen) else max(0, past.slow_readings - 1),
    )


def _broken(past: GpuPast, seen: GpuReading, limits: GpuLimits) -> str | None:
    if seen.lost:
        return f"{_named(seen)} is lost: {seen.lost}; its engine must start anew"
    errors = seen.ecc_uncorrected - past.ecc_at_first
    if errors > limits.ecc_uncorrected_max:
        new = f"{errors} new uncorrectable memory errors"
        limit = f"gpu.ecc_uncorrected_max = {limits.ecc_uncorrected_max}"
        return f"{_named(seen)}: {new}, {limit}; its engine must start anew"
    return None


def _heat(before: Fitness, temperature_c: int, limits: GpuLimits) -> Fitness:
    if temperature_c >= limits.temperature_max_c:
        return Fitness.UNFIT
    if temperature_c < limits.temperature_resume_c:
        return Fitness.FIT
    if temperature_c >= limits.temperature_strained_c:
        return _worst((before, Fitness.STRAINED))
    return before


def _findings(past: GpuPast, seen: GpuReading, limits: GpuLimits) -> Iterator[tuple[Fitness, str]]:
    """What speaks against a GPU, in words."""
    if past.broken:
        yield Fitness.UNFIT, past.broken
        return
    if past.heat is not Fitness.FIT:
        reached = f"gpu.temperature_strained_c = {limits.temperature_strained_c}"
        if past.heat is Fitness.UNFIT:
            reached = f"gpu.temperature_max_c = {limits.temperature_max_c}"
        until = f"until below gpu.temperature_resume_c = {limits.temperature_resume_c}"
        yield past.heat, f"{_named(seen)}: {seen.temperature_c} °C, having reached {reached}; {until}"
    if past.crowded:
        held = f"{_share_of_others(seen):.2f} of its memory ({seen.memory_others_bytes / 2**20:,.0f} MiB)"
        limit = f"gpu.memory_others_max = {limits.memory_others_max}"
        until = f"until gpu.memory_others_resume = {limits.memory_others_resume}"
        yield Fitness.UNFIT, f"{_named(seen)}: other processes hold {held}, {limit}; {until}"
    if past.slow_readings:
        now = ", ".join(_slowdowns(seen)) or "not now"
        until = f"until gpu.throttle_calm_readings = {limits.throttle_calm_readings} readings without"
        yield Fitness.STRAINED, f"{_named(seen)} holds its clocks down: {now}; {until}"


def _named(seen: GpuReading) -> str:
    return f"GPU {seen.index} ({seen.name})" if seen.name else f"GPU {seen.uuid}"


def _slowdowns(seen: GpuReading) -> list[str]:
    return [reason for reason in seen.throttle_reasons if reason in STRAINING]


def _share_of_others(seen: GpuReading) -> float:
    return seen.memory_others_bytes / seen.memory_total_bytes if seen.memory_total_bytes else 0.0


def _worst(levels: Iterable[Fitness]) -> Fitness:
    return max(levels, key=list(Fitness).index, default=Fitness.FIT)
