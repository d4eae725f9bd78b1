"""A row that crashes vLLM's EngineCore, every time: found, left out, and nobody else is blamed.

The crash is real: a logits processor, vLLM's own way to load foreign code, raises in the middle of a step, as
a defect that one request can reach does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybatch.cli.demo_questions import questions
from raybatch.config import PACKAGED_MODEL
from tests.acceptance.real_cluster import RealCluster, real_cluster

ROWS = 60
POISON = 23  #: its place in the file
SEED = 666  #: of the request that kills
DEATHS_MAX = 9
POISONED_MAX_S = 1_500.0  #: each death is followed by a model that loads

PROCESSOR = f"""
from vllm.v1.sample.logits_processor import LogitsProcessor


class KillsItsEngine(LogitsProcessor):
    def __init__(self, vllm_config, device, is_pin_memory):
        pass

    def is_argmax_invariant(self):
        return True

    def apply(self, logits):
        return logits

    def update_state(self, batch_update):
        for _, params, *_ in batch_update.added if batch_update else ():
            if params.seed == {SEED}:
                raise RuntimeError("a defect of the engine")
"""

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.timeout(1_800),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    folder: Path = tmp_path_factory.mktemp("processor")
    (folder / "kills_its_engine.py").write_text(PROCESSOR)
    extra = json.dumps({"logits_processors": ["kills_its_engine:KillsItsEngine"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        with real_cluster(
            f"vllm.extra={extra}", "vllm.max_num_seqs=8", "scheduler.restarts_free=1000"
        ) as made:
            yield made


def test_the_row_that_crashes_vllm_is_a_dead_letter_and_all_others_complete(real: RealCluster) -> None:
    lines = [json.loads(line) for line in questions(ROWS, PACKAGED_MODEL.id)]
    lines[POISON]["body"]["seed"] = SEED
    batch_id = real.create(lines)
    batch = real.until(batch_id, lambda batch: batch.status == "completed", POISONED_MAX_S)

    assert (batch.request_counts.completed, batch.request_counts.failed) == (ROWS - 1, 1)
    (dead,) = real.lines(batch.error_file_id)
    assert dead["custom_id"] == lines[POISON]["custom_id"]
    assert (dead["response"], dead["error"]["code"]) == (None, "engine_crash")
    answered = [row["custom_id"] for row in real.lines(batch.output_file_id)]
    assert answered == [line["custom_id"] for line in lines if line is not lines[POISON]]

    log = real.connection.admin("GET", "/admin/log")
    deaths = [entry for entry in log if entry["kind"] == "died"]
    print(f"{len(deaths)} engine deaths")
    assert 3 <= len(deaths) <= DEATHS_MAX
