"""The pack of hostile bodies through intake alone; the acceptance test runs it on a real engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raybatch.actors.intake import IntakeLimits, take_in
from raybatch.storage.request_index import IndexReader
from tests.hostile_bodies import SEEN_AT_INTAKE, SEEN_BY_THE_ENGINE

CHAT = "/v1/chat/completions"
CLEAN = 500


def line(custom_id: str, **body: Any) -> bytes:
    given = {"model": "m", "messages": [{"role": "user", "content": f"This is {custom_id}."}], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": given}).encode()


@pytest.mark.parametrize("strict", [True, False])
def test_hostile_bodies_become_error_rows_among_clean_ones_in_both_modes(
    tmp_path: Path, strict: bool
) -> None:
    lines = [line(f"clean {number}", max_tokens=8) for number in range(CLEAN)]
    lines += [line(name, **change) for name, change in {**SEEN_AT_INTAKE, **SEEN_BY_THE_ENGINE}.items()]
    upload = tmp_path / "upload"
    upload.write_bytes(b"\n".join(lines))

    report = take_in(
        upload,
        tmp_path / "index.parquet",
        endpoint=CHAT,
        models={"m": "m"},
        limits=IntakeLimits(),
        strict=strict,
    )

    with IndexReader(tmp_path / "index.parquet") as index:
        refused = {entry.custom_id: entry.error_message or "" for entry in index if entry.error_code}
    assert refused.keys() == SEEN_AT_INTAKE.keys()
    assert (report.errors, report.total, report.refused) == ((), len(lines), len(SEEN_AT_INTAKE))
    for name, change in SEEN_AT_INTAKE.items():
        assert any(f"body.{field}" in refused[name] or f"'{field}'" in refused[name] for field in change)
