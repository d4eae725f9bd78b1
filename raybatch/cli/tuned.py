"""What was tuned, as `raybatch up` takes it, and in the words it says of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from raybatch.config import Home, Settings
from raybatch.tuned_file import read_tunings, tuned_path, with_tunings

CPU_INFO: Final = Path("/proc/cpuinfo")


def with_tuned(home: Home, settings: Settings, say: Callable[[str], None]) -> Settings:
    """With what was tuned in this home on this machine; ``say`` is told what counts and what does not."""
    tunings = read_tunings(home) if settings.engine.kind == "vllm" else {}
    if not tunings:
        return with_tunings(settings, {}, "")
    here = machine(settings)
    taken = with_tunings(settings, tunings, here)
    for model in settings.models:
        tuning = tunings.get(model.id)
        if tuning is not None and tuning.machine != here:
            say(
                f"{model.id} was tuned on another machine ({tuning.machine}; this is {here}), so that does"
                f" not count: `raybatch tune {model.id}`"
            )
        elif tuning is not None:
            say(f"{model.id}: {_counted(taken, model.vllm, tuning.vllm)} ({tuned_path(home)})")
    return taken


def machine(settings: Settings) -> str:
    """What engines with these settings run on: `1 x NVIDIA H200, 140 GiB`, or `2 cores of …`."""
    if not settings.engine.gpus:
        return f"{len(os.sched_getaffinity(0))} cores of {_processor()}"
    from raybatch.gpu.nvml import GpuWatch

    watch = GpuWatch.open(lambda: ())
    try:
        cards = Counter(f"{card.name}, {card.memory_total_bytes / 2**30:.0f} GiB" for card in watch.read())
    finally:
        watch.close()
    return "; ".join(f"{count} x {card}" for card, count in sorted(cards.items())) or "no GPU"


def shown(values: Mapping[str, Any]) -> str:
    """`vllm.max_num_seqs=16, vllm.window_ratio=1.5`."""
    return ", ".join(f"vllm.{key}={shown_value(value)}" for key, value in sorted(values.items()))


def shown_value(value: object) -> str:
    """As ``--set`` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _counted(settings: Settings, own: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    by_hand = {key: value for key, value in tuned.items() if key in own or key in settings.vllm_by_hand}
    rest = {key: value for key, value in tuned.items() if key not in by_hand}
    words = [f"{shown(rest)} as tuned"] if rest else []
    if by_hand:
        words.append(f"not {shown(by_hand)}, which was set otherwise by hand")
    return ", ".join(words)


def _processor() -> str:
    """Its name; the architecture where the kernel tells none."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, os.uname().machine)
