"""A limit on what a batch embeds counts inputs, over all lines, and only where it is set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raybatch.actors.intake import IntakeLimits, take_in


@pytest.mark.parametrize(("inputs_max", "code"), [(0, None), (7, None), (6, "too_many_tasks")])
@pytest.mark.parametrize("strict", [True, False])
def test_inputs_of_all_lines_are_counted(
    tmp_path: Path, inputs_max: int, code: str | None, strict: bool
) -> None:
    blob = tmp_path / "upload"
    inputs: list[object] = ["one", ["two", "three"], [4, 4, 4], [[5], [6, 6], [7]]]
    blob.write_text(
        "".join(
            json.dumps(
                {
                    "custom_id": f"r{place}",
                    "method": "POST",
                    "url": "/v1/embeddings",
                    "body": {"model": "m", "input": found},
                }
            )
            + "\n"
            for place, found in enumerate(inputs)
        )
    )
    report = take_in(
        blob,
        tmp_path / "index.parquet",
        endpoint="/v1/embeddings",
        models={"m": "m"},
        limits=IntakeLimits(embedding_inputs_max=inputs_max),
        strict=strict,
    )
    assert [error.code for error in report.errors] == ([code] if code else [])
    for error in report.errors:
        assert "7 inputs" in error.message
        assert "scheduler.embedding_inputs_max" in error.message
