"""vLLM's offline ``LLM`` in a process of its own: the peer that a batch is measured against.

``python -m jobs.llm_child HOME NICENESS``: one JSON line in for each run, one out. The home's first model is
loaded with the environment and the arguments that an engine of that home gives vLLM, by the same code. It
ends when its input does.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, Final, Protocol

import msgspec

from jobs.prompts import Prompt, sampling
from jobs.runs import Finish
from raybatch.actors.engine_choice import make_engine
from raybatch.config import Home

READY: Final = b"ready\n"


class Ask(msgspec.Struct):
    prompts: list[Prompt]


class Answer(msgspec.Struct):
    wall_s: float  #: of ``generate``: prompts as text in, text out
    finishes: tuple[Finish, ...]  #: as the loop within ``generate`` learned of them


class Output(Protocol):
    """What is used of vLLM's RequestOutput."""

    finished: bool
    prompt_token_ids: list[int]
    num_cached_tokens: int
    outputs: list[Any]


def main() -> None:
    """vLLM prints to stdout, so answers go to what stdout was, and stdout becomes stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.nice(int(sys.argv[2]) - os.nice(0))
    llm = load(Home.find(sys.argv[1]))
    serve(answers, partial(generate, llm))


def serve(answers: BinaryIO, run: Callable[[list[Prompt]], Answer]) -> None:
    """Say that it is ready, and answer every line of stdin with a run."""
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        answers.write(msgspec.json.encode(run(msgspec.json.decode(line, type=Ask).prompts)) + b"\n")
        answers.flush()


def load(home: Home) -> Any:
    from raybatch.engine.vllm_engine import VllmEngine, arguments, log_folder

    settings = home.load()
    engine = asyncio.run(make_engine(home, settings, settings.models[0], 0))
    assert isinstance(engine, VllmEngine), settings.engine.kind
    with log_folder(engine.settings):
        from vllm import LLM
        from vllm.engine.arg_utils import EngineArgs

        return LLM.from_engine_args(EngineArgs.from_cli_args(arguments(engine.settings)))


def generate(llm: Any, prompts: list[Prompt]) -> Answer:
    """Raises RuntimeError when the prefix cache cannot be emptied, in which an earlier run may have left
    beginnings of these prompts."""
    from vllm import SamplingParams

    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM could not empty its prefix cache")
    params = [SamplingParams(**sampling(prompt)) for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    finishes: list[Finish] = []
    started_mono = time.monotonic()
    step = llm.llm_engine.step

    def noted_step() -> list[Output]:
        """``generate`` drives the engine with ``step``, which answers the requests that have finished."""
        outputs: list[Output] = step()
        at_s = time.monotonic() - started_mono
        finishes.extend(
            Finish(
                at_s,
                len(output.prompt_token_ids),
                len(output.outputs[0].token_ids),
                output.num_cached_tokens,
            )
            for output in outputs
            if output.finished
        )
        return outputs

    llm.llm_engine.step = noted_step
    try:
        llm.generate(texts, params, use_tqdm=False)
    finally:
        llm.llm_engine.step = step
    return Answer(time.monotonic() - started_mono, tuple(finishes))


if __name__ == "__main__":
    main()
