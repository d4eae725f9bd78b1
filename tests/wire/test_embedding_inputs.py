from __future__ import annotations

import json

import pytest

from raybatch.wire.embedding_inputs import embedding_inputs


@pytest.mark.parametrize(
    ("found", "count"),
    [
        ("a text", 1),
        (["a", "b", "c"], 3),
        ([1, 2, 3], 1),
        ([[1, 2], [3]], 2),
        ([], 1),
        (["[1, 2]"], 1),
    ],
)
def test_a_text_or_an_array_of_token_ids_is_one_input(found: object, count: int) -> None:
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "m", "input": found},
    }
    assert embedding_inputs(json.dumps(line).encode()) == count
