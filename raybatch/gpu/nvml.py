"""Readings of this process's GPUs through NVML, and the errors the driver reports about them (XID).

The only file that imports pynvml. It changes nothing on a card, decides nothing, and never raises because of
a card: one that does not answer a question keeps the figure it had (0 at first), and one that is gone is a
reading, too.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import psutil
import pynvml

from raybatch.core.fitness import GpuReading, Throttle

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

UNREACHABLE_READS_MAX: Final = 3  #: a card that only times out is lost after so many reads in a row
REOPEN_READS: Final = 10  #: NVML is opened anew after a card's first failure, and then every so many reads
XIDS_AT_ONCE_MAX: Final = 32  #: taken in one read; the others wait for the next

#: the driver says so itself: no further try finds it
GONE: Final = frozenset(
    {
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
    }
)
UNREACHABLE: Final = GONE | {
    pynvml.NVML_ERROR_TIMEOUT,
    pynvml.NVML_ERROR_UNINITIALIZED,  # another library in this process closed NVML once too often
    pynvml.NVML_ERROR_IRQ_ISSUE,
}

#: after which no kernel of ours runs on: those for which NVIDIA's catalog asks for a reset or a new process.
#: Left out on purpose: errors of some program (13, 31, 43, 45, 109), which may be a stranger's, and what the
#: card repaired itself (63 a row remapped, 92 many correctable errors).
XIDS_FATAL: Final = {
    46: "the GPU stopped processing",
    48: "uncorrectable memory error",
    62: "its microcontroller halted",
    64: "a bad memory row could not be remapped",
    79: "the GPU has fallen off the bus",
    94: "contained memory error",  # kills the process that met it; the driver does not say which
    95: "uncontained memory error",
    110: "security fault",
    119: "its system processor (GSP) does not answer",
    120: "its system processor (GSP) failed",
    140: "unrecovered memory error",
    143: "the GPU could not be initialised",
}

THROTTLES: Final = {
    pynvml.nvmlClocksEventReasonSwPowerCap: Throttle.SW_POWER_CAP,
    pynvml.nvmlClocksEventReasonHwSlowdown: Throttle.HW_SLOWDOWN,
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: Throttle.SW_THERMAL,
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: Throttle.HW_THERMAL,
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: Throttle.HW_POWER_BRAKE,
}


@dataclass(slots=True)
class _Card:
    """One device of CUDA_VISIBLE_DEVICES. A MIG slice has memory of its own; all else is its parent's."""

    selector: str  #: its index, and its UUID once known: an index moves when another card is gone
    last: GpuReading
    device: Any = None  #: NVML's handle; None until attached
    unit: Any = None  #: the MIG slice's handle, or the device's again
    failures: int = 0  #: reads in a row that did not reach it
    lost: str | None = None  #: until a read reaches it again
    xid: str | None = None  #: kept: the driver tells it once, and the process on that card does not recover
    used_least_bytes: int | None = None  #: since the watch was opened


class GpuWatch:
    """The GPUs of this process, read one call at a time; any thread may call.

    Open it before the engine starts: where the driver hides who holds memory, what is in use then is others'.
    """

    def __init__(self, ours: Callable[[], Collection[int]]) -> None:
        self.absent: str | None = None  #: why there is nothing to read
        self._ours = ours
        self._cards: list[_Card] = []
        self._started = False
        self._xids: Any = None  #: NVML's event set, where supported

    @classmethod
    def open(cls, ours: Callable[[], Collection[int]]) -> GpuWatch:
        """``ours``: the pids whose memory is not others'. Without a driver or a GPU ``absent`` says why."""
        watch = cls(ours)
        try:
            watch._start()
            watch._cards = watch._visible()
        except pynvml.NVMLError_LibraryNotFound:
            watch.absent = "no NVIDIA driver: libnvidia-ml.so.1 is not found"
        except pynvml.NVMLError as error:
            watch.absent = f"NVML does not start: {error}"
            watch._stop()
        if not watch._cards and watch.absent is None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            told = "" if visible is None else f" that CUDA_VISIBLE_DEVICES='{visible}' names"
            watch.absent = f"the driver has no GPU for this process{told}"
            watch._stop()
        return watch

    def read(self) -> tuple[GpuReading, ...]:
        """All cards now, in CUDA's order. Takes milliseconds, unless the driver itself hangs."""
        self._take_xids()
        if any(card.failures % REOPEN_READS == 1 for card in self._cards):
            self._stop()
            with suppress(pynvml.NVMLError):  # then every card says so itself
                self._start()
        ours = frozenset(self._ours()) if self._cards else frozenset()
        return tuple(self._read(card, ours) for card in self._cards)

    def close(self) -> None:
        """Let NVML go; afterwards there is nothing to read."""
        if self.absent is None:
            self._cards = []
            self._stop()
            self.absent = "closed"

    # -- opening -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        pynvml.nvmlInit()
        self._started = True
        with suppress(pynvml.NVMLError):
            self._xids = pynvml.nvmlEventSetCreate()

    def _stop(self) -> None:
        with suppress(pynvml.NVMLError):
            if self._xids is not None:
                pynvml.nvmlEventSetFree(self._xids)
        with suppress(pynvml.NVMLError):
            if self._started:  # NVML counts: once too often would close another library's in this process
                pynvml.nvmlShutdown()
        self._started, self._xids = False, None
        for card in self._cards:
            card.device = card.unit = None

    def _visible(self) -> list[_Card]:
        """As CUDA reads its variable: it stops at the first name it does not know.

        NVML counts by PCI bus. So does CUDA where all cards are alike or CUDA_DEVICE_ORDER=PCI_BUS_ID is set.
        """
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = map(str, range(pynvml.nvmlDeviceGetCount())) if named is None else named.split(",")
        cards: list[_Card] = []
        for name in map(str.strip, names):
            index = int(name) if name.isdecimal() else -1
            card = _Card(name, GpuReading(index, name, "", 0, 0, 0, 0, 0.0, 0.0, 0.0))
            try:
                self._attach(card)
            except pynvml.NVMLError as error:
                if error.value not in UNREACHABLE:
                    log.info("GPU '%s' is not for this process, NVML says: %s", name, error)
                    if named is None:
                        continue
                    break
            cards.append(card)
        return cards

    def _attach(self, card: _Card) -> None:
        """Raises NVMLError when the card is not there."""
        unit = device = _handle(card.selector)
        if card.selector.startswith("MIG-"):
            device = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(unit)
        uuid = pynvml.nvmlDeviceGetUUID(unit)
        index, name = pynvml.nvmlDeviceGetIndex(device), pynvml.nvmlDeviceGetName(device)
        card.last = replace(card.last, index=index, uuid=uuid, name=name)
        card.selector, card.device, card.unit = uuid, device, unit
        if self._xids is not None:
            with suppress(pynvml.NVMLError):  # not on every card, nor under WSL
                pynvml.nvmlDeviceRegisterEvents(device, pynvml.nvmlEventTypeXidCriticalError, self._xids)

    # -- reading -------------------------------------------------------------------------------------------

    def _take_xids(self) -> None:
        if self._xids is None:
            return
        for _ in range(XIDS_AT_ONCE_MAX):
            try:
                event = pynvml.nvmlEventSetWait(self._xids, 0)
            except pynvml.NVMLError:  # a timeout: there is none. A lost card is found when it is read
                return
            xid = int(event.eventData)
            hit = [card for card in self._cards if _same(card.device, event.device)]
            log.warning("XID %d on %s", xid, [card.last.uuid for card in hit])
            for card in hit if xid in XIDS_FATAL else ():
                card.xid = card.xid or f"XID {xid}, {XIDS_FATAL[xid]}"

    def _read(self, card: _Card, ours: frozenset[int]) -> GpuReading:
        try:
            if card.device is None:
                self._attach(card)
            card.last = _figures(card, ours)
            card.failures, card.lost = 0, None
        except pynvml.NVMLError as error:
            card.failures += 1
            if error.value in GONE or card.failures >= UNREACHABLE_READS_MAX:
                card.lost = card.lost or f"NVML says: {error}"
        return replace(card.last, lost=card.xid or card.lost)


def _handle(selector: str) -> Any:
    """``selector``: an index, a MIG slice's UUID, or a GPU's, which CUDA lets one cut short."""
    if selector.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(selector))
    if selector.startswith("GPU-"):
        for index in range(pynvml.nvmlDeviceGetCount()):
            with suppress(pynvml.NVMLError):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                if pynvml.nvmlDeviceGetUUID(handle).startswith(selector):
                    return handle
    return pynvml.nvmlDeviceGetHandleByUUID(selector)


def _same(one: Any, other: Any) -> bool:
    return one is not None and _address(one) == _address(other)


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value


def _figures(card: _Card, ours: frozenset[int]) -> GpuReading:
    """Raises NVMLError when the card cannot be reached."""
    last, device = card.last, card.device
    total, used = _answer(lambda: _memory(card.unit), (last.memory_total_bytes, last.memory_used_bytes))
    if total:
        card.used_least_bytes = min(used, used if card.used_least_bytes is None else card.used_least_bytes)
    return replace(
        last,
        memory_total_bytes=total,
        memory_used_bytes=used,
        memory_others_bytes=_held_by_others(card.unit, ours, card.used_least_bytes or 0),
        temperature_c=_temperature_c(device, last.temperature_c),
        power_w=_answer(lambda: pynvml.nvmlDeviceGetPowerUsage(device) / 1000, last.power_w),
        power_limit_w=_answer(
            lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1000, last.power_limit_w
        ),
        utilization=_answer(lambda: pynvml.nvmlDeviceGetUtilizationRates(device).gpu / 100, last.utilization),
        throttle_reasons=_answer(lambda: _throttle_reasons(device), last.throttle_reasons),
        ecc_uncorrected=_answer(lambda: _ecc_uncorrected(device), last.ecc_uncorrected),
    )


def _answer(query: Callable[[], Answer], otherwise: Answer) -> Answer:
    """``otherwise`` where the card does not support the query. Raises NVMLError where it is out of reach."""
    try:
        return query()
    except pynvml.NVMLError as error:
        if error.value in UNREACHABLE:
            raise
        return otherwise


def _memory(device: Any) -> tuple[int, int]:
    """Total and used, in bytes; version 2 leaves out what the driver keeps for itself."""
    memory = pynvml.nvmlDeviceGetMemoryInfo(device, pynvml.nvmlMemory_v2)
    return int(memory.total), int(memory.used)


def _held_by_others(device: Any, ours: frozenset[int], used_least_bytes: int) -> int:
    """Memory of the processes that are not ours, in bytes.

    Containers and WSL hide processes, their memory, or their pids (those named are another namespace's).
    Then the least that was in use since the watch was opened stands for the others: exact until the engine
    loads its model, and blind to who comes later.
    """
    listed: list[Any] = _answer(
        lambda: [
            *pynvml.nvmlDeviceGetComputeRunningProcesses(device),
            *pynvml.nvmlDeviceGetGraphicsRunningProcesses(device),
        ],
        [],
    )
    if not listed or any(it.usedGpuMemory is None or not psutil.pid_exists(it.pid) for it in listed):
        return used_least_bytes
    # a process that computes and draws is in both lists, with all its memory in each
    held = {(it.pid, it.gpuInstanceId, it.computeInstanceId): it.usedGpuMemory for it in listed}
    return sum(size for (pid, *_), size in held.items() if pid not in ours)


def _temperature_c(device: Any, otherwise: int) -> int:
    """By the newer call, else by the one older drivers have."""
    sensor = pynvml.NVML_TEMPERATURE_GPU
    newer = _answer(lambda: int(pynvml.nvmlDeviceGetTemperatureV(device, sensor)), None)
    if newer is not None:
        return newer
    return _answer(lambda: int(pynvml.nvmlDeviceGetTemperature(device, sensor)), otherwise)


def _throttle_reasons(device: Any) -> tuple[str, ...]:
    mask = pynvml.nvmlDeviceGetCurrentClocksEventReasons(device)
    return tuple(reason.value for bit, reason in THROTTLES.items() if mask & bit)


def _ecc_uncorrected(device: Any) -> int:
    kind, since_driver_load = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    return int(pynvml.nvmlDeviceGetTotalEccErrors(device, kind, since_driver_load))
