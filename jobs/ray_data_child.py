"""Ray Data's LLM pipeline in a process and on a Ray of its own: a peer that batches are measured against.

``python -m jobs.ray_data_child HOME NICENESS``: one JSON line in for each run, one out. It ends when its
input does. A pipeline makes its engine anew for each dataset, by the code and with the arguments of an engine
of that home; so a run is timed from the moment that engine has its first row, which leaves out how it is
loaded, how the first rows are tokenised and how it is stopped. Ray itself sets the niceness of the engine.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from functools import partial
from typing import Any

from jobs.llm_child import Answer, serve
from jobs.prompts import Prompt, sampling
from jobs.runs import Finish
from raybatch.actors.engine_choice import make_engine
from raybatch.config import Home

CPUS = 8  #: as Ray counts them: each stage of the pipeline asks for one


def main() -> None:
    """vLLM and Ray print to stdout, so answers go to what stdout was, and stdout becomes stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    home = Home.find(sys.argv[1])
    engine_kwargs = arguments_of(home)
    start_ray(home)
    serve(answers, partial(run, engine_kwargs))


def arguments_of(home: Home) -> dict[str, Any]:
    """Of an engine of that home, where they are not vLLM's own. Sets its environment, too."""
    from raybatch.engine.vllm_engine import VllmEngine, arguments

    settings = home.load()
    engine = asyncio.run(make_engine(home, settings, settings.models[0], 0))
    assert isinstance(engine, VllmEngine), settings.engine.kind
    from vllm.engine.arg_utils import AsyncEngineArgs

    given = AsyncEngineArgs.from_cli_args(arguments(engine.settings))
    plain = AsyncEngineArgs(model=given.model)
    differing = {
        name: getattr(given, name)
        for name in AsyncEngineArgs.__dataclass_fields__
        if getattr(given, name) != getattr(plain, name)
    }
    return differing | {"model": given.model, "disable_log_stats": False}  # or rows have no times


def start_ray(home: Home) -> None:
    import ray

    ray.init(
        address="local",
        num_cpus=CPUS,
        include_dashboard=False,
        object_store_memory=256 << 20,
        _temp_dir=str(home.root / "ray-data"),
    )


def run(engine_kwargs: dict[str, Any], prompts: list[Prompt]) -> Answer:
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    config = vLLMEngineProcessorConfig(
        model_source=engine_kwargs["model"],
        engine_kwargs=dict(engine_kwargs),
        placement_group_config=None if ray.cluster_resources().get("GPU") else {"bundles": [{"CPU": 1}]},
        chat_template_stage=False,  # prompts are texts
        log_engine_metrics=False,
    )
    processor = build_processor(config, postprocess=_times)
    rows = [{"prompt": prompt.text, "sampling_params": sampling(prompt)} for prompt in prompts]
    done = list(processor(ray.data.from_items(rows)).iter_rows())
    ended_mono = time.monotonic()
    begun_mono = min(row["arrived_at"] for row in done) - time.time() + time.monotonic()
    finishes = [
        Finish(row["last_token_mono"] - begun_mono, row["prompt_tokens"], row["completion_tokens"])
        for row in done
    ]
    return Answer(ended_mono - begun_mono, tuple(sorted(finishes, key=lambda finish: finish.at_s)))


def _times(row: dict[str, Any]) -> dict[str, Any]:
    """By vLLM's own account of a row."""
    return {
        "arrived_at": row["metrics"]["arrival_time"],
        "last_token_mono": row["metrics"]["last_token_ts"],
        "prompt_tokens": row["num_input_tokens"],
        "completion_tokens": row["num_generated_tokens"],
    }


if __name__ == "__main__":
    main()
