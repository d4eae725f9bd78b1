"""``vllm run-batch`` in a process of its own: the peer that takes the very file a batch takes.

``python -m jobs.run_batch_child HOME NICENESS``: one JSON line in for each file, one out. Its engine is
loaded once, by the code and with the arguments of an engine of that home, and a run is then what the command
does with it: read the file, answer every row, write the output. It ends when its input does.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from argparse import Namespace
from typing import Any, BinaryIO

import msgspec

from jobs.llm_child import READY, Answer
from jobs.runs import Finish
from raybatch.actors.engine_choice import make_engine
from raybatch.config import Home


class Ask(msgspec.Struct):
    input_file: str
    output_file: str


def main() -> None:
    """vLLM prints to stdout, so answers go to what stdout was, and stdout becomes stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.nice(int(sys.argv[2]) - os.nice(0))
    asyncio.run(serve(Home.find(sys.argv[1]), answers))


async def serve(home: Home, answers: BinaryIO) -> None:
    from raybatch.engine.vllm_engine import VllmEngine, arguments, log_folder

    settings = home.load()
    engine = await make_engine(home, settings, settings.models[0], 0)
    assert isinstance(engine, VllmEngine), settings.engine.kind
    with log_folder(engine.settings):
        from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
        from vllm.usage.usage_lib import UsageContext

        args = arguments(engine.settings)
        async with build_async_engine_client(args, usage_context=UsageContext.OPENAI_BATCH_RUNNER) as client:
            _tell(answers, READY)
            while line := await asyncio.to_thread(sys.stdin.buffer.readline):
                ask = msgspec.json.decode(line, type=Ask)
                _tell(answers, msgspec.json.encode(await run(client, args, ask)) + b"\n")


async def run(client: Any, args: Namespace, ask: Ask) -> Answer:
    from vllm.entrypoints.launchers import run_batch

    finishes: list[Finish] = []
    started_mono = time.monotonic()
    run_request = run_batch.run_request

    async def noted_request(*given: Any) -> Any:
        """``run_batch`` awaits one for each row; its answer has the row's usage."""
        output = await run_request(*given)
        usage = output.response.body.usage
        finishes.append(Finish(time.monotonic() - started_mono, usage.prompt_tokens, usage.completion_tokens))
        return output

    told = {"input_file": ask.input_file, "output_file": ask.output_file, "output_tmp_dir": None}
    run_batch.run_request = noted_request
    try:
        await run_batch.run_batch(client, Namespace(**(vars(args) | told)))
    finally:
        run_batch.run_request = run_request
    return Answer(time.monotonic() - started_mono, tuple(finishes))


def _tell(answers: BinaryIO, line: bytes) -> None:
    answers.write(line)
    answers.flush()


if __name__ == "__main__":
    main()
