"""From settings to an engine: which kind, with which arguments."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict

from raybatch.actors.engine_names import engine_names
from raybatch.config import Home, ModelSettings, Settings
from raybatch.engine.contract import Engine
from raybatch.errors import EngineFailed


async def make_engine(home: Home, settings: Settings, model: ModelSettings, number: int) -> Engine:
    """Not started yet. Raises EngineFailed when settings name no engine or the packaged model is absent."""
    if settings.engine.kind == "echo":
        from raybatch.engine.echo import EchoEngine
        from raybatch.engine.echo_child import EchoSettings

        return EchoEngine(EchoSettings(**asdict(settings.echo)))
    if settings.engine.kind != "vllm":
        raise EngineFailed(f"unknown engine.kind '{settings.engine.kind}': choose vllm or echo")
    from raybatch.engine.packaged_model import prepare_packaged_model
    from raybatch.engine.vllm_engine import VllmEngine, VllmSettings

    source = model.source or model.id
    if source == "packaged":
        source = str(await asyncio.to_thread(prepare_packaged_model, home.models))
    chosen = settings.vllm_of(model)
    return VllmEngine(
        VllmSettings(
            model=source,
            served_names=model.names,
            cache_root=str(home.root / "cache" / "vllm"),
            max_num_seqs=chosen.max_num_seqs,
            max_num_batched_tokens=chosen.max_num_batched_tokens,
            max_model_len=chosen.max_model_len or None,
            enforce_eager=chosen.enforce_eager,
            kv_cache_memory_bytes=chosen.kv_cache_memory_bytes or None,
            gpu_memory_utilization=None if chosen.kv_cache_memory_bytes else chosen.gpu_memory_utilization,
            tensor_parallel_size=chosen.tensor_parallel_size,
            dtype=chosen.dtype,
            load_format=chosen.load_format,
            cpu_threads_bind=chosen.cpu_threads_bind or _own_cores(settings, number),
            window_ratio=chosen.window_ratio,
            extra=chosen.extra,
        )
    )


def _own_cores(settings: Settings, number: int) -> str | None:
    """Engines that share a machine without GPUs get disjoint cores; a single one is left to vLLM's choice."""
    engines = len(engine_names(settings))
    if settings.engine.gpus or engines < 2:
        return None
    cores = sorted(os.sched_getaffinity(0))
    mine = cores[number % len(cores) :: engines]
    return ",".join(str(core) for core in mine) or str(cores[-1])
