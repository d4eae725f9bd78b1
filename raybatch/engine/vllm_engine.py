"""vLLM behind the engine contract. The only file that imports vllm, and only inside functions.

vLLM runs in this process through its own OpenAI-compatible ASGI application: body bytes in, status and body
bytes out, so chat templates, tools, structured outputs and embeddings are vLLM's own. No HTTP server listens.
The model runs in child processes of vLLM (``EngineCore``), one engine to a process of ours.

It refuses to judge request bodies; they have been validated before. Prompts are never logged.
"""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing.connection
import os
import tempfile
from argparse import Namespace
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil

from raybatch.engine.asgi_call import AsgiApp, AsgiCall
from raybatch.engine.contract import EXIT_CODE_MAX_S, OUTSIDE_EXIT_CODES, EngineReply, Progress
from raybatch.engine.envelope import error_envelope
from raybatch.engine.model_source import check_model_source
from raybatch.engine.vllm_replies import reply_from_vllm
from raybatch.errors import EngineDied, EngineFailed

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

#: vLLM's route of each endpoint; the application has others, some of which change the engine
_ROUTES = {
    "/v1/chat/completions": "/v1/chat/completions",
    "/v1/completions": "/v1/completions",
    "/v1/embeddings": "/v1/embeddings",
    "/v1/responses": "/v1/responses",
    "/v1/score": "/v1/score",
    "/v1/rerank": "/v1/rerank",
    "/v1/classify": "/classify",
    "/v1/pooling": "/pooling",
}
_ERRORS = "errors.log"
_IMAGE_PIXELS_MAX = 64 << 20  #: a small file can unfold into a picture that fills the memory
_STOP_MAX_S = 10.0  #: then the children are killed; at once when one of them is lost already
#: these would put prompts into the log, or ask requests for a key
_NEVER_IN_EXTRA = frozenset({"enable_log_requests", "enable_log_outputs", "api_key"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSettings:
    model: str  #: a folder or a hub id
    served_names: tuple[str, ...]  #: what requests may call the model
    cache_root: str  #: compiled kernels; kept across starts
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_model_len: int | None = None
    enforce_eager: bool = False
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float | None = None
    tensor_parallel_size: int = 1
    dtype: str = "auto"
    load_format: str = "auto"
    cpu_threads_bind: str | None = None  #: e.g. "0-3"; disjoint for each engine of a machine
    window_ratio: float = 1.125  #: rows in flight ÷ max_num_seqs: some wait, ready to follow
    extra: dict[str, object] = field(default_factory=dict)  #: any other argument of ``vllm serve``


class VllmEngine:
    def __init__(self, settings: VllmSettings) -> None:
        self.settings = settings
        self._counters = _Counters()
        self._engine: AsyncLLM | None = None
        self._app: AsgiApp | None = None
        self._routes: frozenset[str] = frozenset()  #: those of the tasks the model can do
        self._children: tuple[psutil.Process, ...] = ()
        self._cores: tuple[BaseProcess, ...] = ()  #: those of them that are ours, with their exit codes
        self._logs: tempfile.TemporaryDirectory[str] | None = None
        self._calls: dict[asyncio.Task[None], AsgiCall] = {}

    @property
    def window(self) -> int:
        return math.ceil(self.settings.window_ratio * self.settings.max_num_seqs)

    async def start(self) -> None:
        await asyncio.to_thread(check_model_source, self.settings.model)
        self._logs = await asyncio.to_thread(log_folder, self.settings)
        try:
            args = await asyncio.to_thread(arguments, self.settings)
            # In a thread: loading takes minutes, during which this loop has to answer.
            self._engine = await asyncio.to_thread(_load, args, self._counters)
            self._app, self._routes = await _application(self._engine, args)
        except Exception as error:
            reason = _why(error, Path(self._logs.name, _ERRORS), self.settings)
            await self.stop()
            raise EngineFailed(reason) from error
        self._children = _engine_processes()
        self._cores = tuple(multiprocessing.active_children())

    async def generate(self, url: str, body: bytes, request_id: str) -> EngineReply:
        if self._engine is None or self._app is None or self._engine.errored:
            raise EngineDied("The vLLM engine is not running.")
        route = _ROUTES.get(url)
        if route is None or route not in self._routes:
            return EngineReply(
                404, error_envelope(404, f"{self.settings.served_names[0]} does not serve {url}.")
            )
        call = AsgiCall(route, body, request_id)
        task = asyncio.create_task(call.run(self._app))
        self._calls[task] = call
        task.add_done_callback(self._calls.pop)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            # Cancelling the application's task would leave the request running; a client that leaves ends it.
            call.disconnect()
            raise
        if self._engine is None or self._engine.errored:
            raise EngineDied("vLLM's engine process was lost while it answered.")
        return reply_from_vllm(call.status, bytes(call.answer), streamed=call.streamed)

    def progress(self) -> Progress:
        counters = self._counters
        busy = bool(self._calls)  # an abort that empties the engine is not followed by a step that says so
        return Progress(
            steps=counters.steps,
            prompt_tokens=counters.prompt_tokens,
            completion_tokens=counters.completion_tokens,
            running=counters.running if busy else 0,
            waiting=counters.waiting if busy else 0,
            kv_cache_usage=counters.kv_cache_usage,
        )

    def child_pids(self) -> tuple[int, ...]:
        return tuple(child.pid for child in self._children if _alive(child))

    async def killed_from_outside(self) -> bool:
        """A worker of a split model that was killed looks like a crash: its EngineCore ends by itself."""
        ends = [core.sentinel for core in self._cores]
        await asyncio.to_thread(multiprocessing.connection.wait, ends, EXIT_CODE_MAX_S)
        return any(core.exitcode in OUTSIDE_EXIT_CODES for core in self._cores)

    async def stop(self) -> None:
        engine, self._engine, self._app = self._engine, None, None
        for call in self._calls.values():
            call.disconnect()
        if self._calls:
            await asyncio.wait(self._calls, timeout=_STOP_MAX_S)
        for task in self._calls:
            task.cancel()
        children, self._children = {*self._children, *_engine_processes()}, ()
        patience_s = 0.0 if engine is None or engine.errored else _STOP_MAX_S
        if engine is not None:
            await asyncio.to_thread(engine.shutdown, patience_s)
        await asyncio.to_thread(_end, children, patience_s)
        if self._logs is not None:
            self._logs.cleanup()


@dataclass(slots=True)
class _Counters:
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0


def log_folder(settings: VllmSettings) -> tempfile.TemporaryDirectory[str]:
    """Sets the environment that vLLM and its children read, and the folder of their error log."""
    Path(settings.cache_root).mkdir(parents=True, exist_ok=True)
    folder = tempfile.TemporaryDirectory(prefix="engine-", dir=settings.cache_root)
    logging_config = Path(folder.name, "logging.json")
    logging_config.write_text(json.dumps(_logging(errors_path=str(Path(folder.name, _ERRORS)))))
    os.environ.pop("VLLM_API_KEY", None)
    os.environ |= {
        "VLLM_CACHE_ROOT": settings.cache_root,
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOGGING_CONFIG_PATH": str(logging_config),
        "VLLM_MAX_IMAGE_PIXELS": str(_IMAGE_PIXELS_MAX),
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if settings.cpu_threads_bind is not None:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = settings.cpu_threads_bind
    return folder


def _logging(errors_path: str) -> dict[str, Any]:
    """All to stderr; errors also to a file, where a failed start finds the reason of its children."""
    stderr = {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}
    errors = {
        "class": "logging.FileHandler",
        "formatter": "line",
        "level": "ERROR",
        "filename": errors_path,
        "delay": True,
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(levelname)s %(asctime)s [%(name)s] %(message)s"}},
        "handlers": {"stderr": stderr, "errors": errors},
        "loggers": {"vllm": {"handlers": ["stderr", "errors"], "level": "INFO", "propagate": False}},
    }


def arguments(settings: VllmSettings) -> Namespace:
    """All arguments of ``vllm serve``: its engine's and its front end's."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    frontend: dict[str, Any] = vars(FrontendArgs()) | {"enable_prompt_tokens_details": True}
    given: dict[str, Any] = {
        "model": settings.model,
        "served_model_name": list(settings.served_names),
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "max_model_len": settings.max_model_len,
        "enforce_eager": settings.enforce_eager,
        "kv_cache_memory_bytes": settings.kv_cache_memory_bytes,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "distributed_executor_backend": "mp" if settings.tensor_parallel_size > 1 else None,
        "dtype": settings.dtype,
        "load_format": settings.load_format,
        "allowed_media_domains": ["media.invalid"],  # an empty list would allow every domain
        "disable_log_stats": True,  # ours counts instead
        **settings.extra,
    }
    known = frontend.keys() | AsyncEngineArgs.__dataclass_fields__.keys()
    if refused := sorted((given.keys() - known) | (settings.extra.keys() & _NEVER_IN_EXTRA)):
        raise ValueError(f"not an argument that can be given to vLLM here: {', '.join(refused)}")
    frontend |= {name: value for name, value in given.items() if name in frontend}
    engine = {n: v for n, v in given.items() if n not in frontend and v is not None}
    return Namespace(**(frontend | vars(AsyncEngineArgs(**engine))))


def _load(args: Namespace, counters: _Counters) -> AsyncLLM:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    engine: AsyncLLM = AsyncLLM.from_engine_args(
        AsyncEngineArgs.from_cli_args(args),
        usage_context=UsageContext.OPENAI_API_SERVER,
        stat_loggers=[_counting_logger(counters)],
    )
    return engine


def _counting_logger(counters: _Counters) -> Any:
    """vLLM calls ``record`` once for each step of its scheduler, those without a finished token included."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class CountingLogger(StatLoggerBase):  # type: ignore[misc]
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
            if scheduler_stats is not None:
                counters.steps += 1
                counters.running = scheduler_stats.num_running_reqs
                counters.waiting = scheduler_stats.num_waiting_reqs
                counters.kv_cache_usage = scheduler_stats.kv_cache_usage
            if iteration_stats is not None:
                counters.prompt_tokens += iteration_stats.num_prompt_tokens
                counters.completion_tokens += iteration_stats.num_generation_tokens

        def log_engine_initialized(self) -> None:
            pass

    return CountingLogger


async def _application(engine: AsyncLLM, args: Namespace) -> tuple[AsgiApp, frozenset[str]]:
    """With the paths of its routes: vLLM makes those of the tasks that the model can do."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    await engine.reset_mm_cache()
    supported = await engine.get_supported_tasks()
    app = build_app(args, supported, engine.model_config)
    await init_app_state(engine, app.state, args, supported)
    app.state.server = SimpleNamespace()  # the error handler tells it to exit; here nobody listens
    return app, frozenset(getattr(route, "path", "") for route in app.routes)


def _engine_processes() -> tuple[psutil.Process, ...]:
    """vLLM names its processes ``VLLM::EngineCore`` and ``VLLM::Worker…``."""
    children = psutil.Process().children(recursive=True)
    return tuple(child for child in children if _title(child).startswith("VLLM::"))


def _alive(process: psutil.Process) -> bool:
    """Also not a dead one that nobody has asked for its exit code."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _end(processes: set[psutil.Process], patience_s: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=_STOP_MAX_S)


def _why(error: Exception, errors: Path, settings: VllmSettings) -> str:
    """The last error its children logged that is a reason of its own, else ours; then what helps."""
    logged = errors.read_text(errors="replace").strip().splitlines() if errors.exists() else []
    reason = next((line for line in reversed(logged) if _is_reason(line)), str(error) or type(error).__name__)
    return f"vLLM could not load {settings.model}: {reason.strip()[:500].rstrip('.')}.{_what_helps(reason)}"


def _is_reason(line: str) -> bool:
    """The last line of a traceback, ``SomeError: why``; a parent's only points to its child's root cause."""
    name = line.split(":", 1)[0].strip().rsplit(".", 1)[-1]
    return (
        "root cause" not in line and name.isidentifier() and name.endswith(("Error", "Exception", "Failed"))
    )


def _what_helps(reason: str) -> str:
    low = reason.lower()
    if any(
        words in low
        for words in ("out of memory", "memoryerror", "no available memory", "free memory", "kv cache")
    ):
        return (
            " Lower max_model_len or max_num_seqs, set kv_cache_memory_bytes or gpu_memory_utilization, "
            "or end what else holds the device's memory."
        )
    if "gated" in low or "401" in low or "403" in low:
        return " Accept the model's terms on its hub page and set HF_TOKEN."
    return " vLLM's own log on stderr has the whole story."
