"""The console over real vLLM: a file goes in, is followed to its end, and its answers are read there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from raybatch.cli.demo_questions import questions
from raybatch.config import PACKAGED_MODEL
from tests.acceptance.real_cluster import BATCH_MAX_S, MARKS, RealCluster, real_cluster
from tests.console.conftest import OpenPage
from tests.console.test_browser import submit

ROWS = 40
REJECTED = 7  #: its body is one that vLLM answers with 400

pytestmark = [*MARKS, pytest.mark.long]


@pytest.fixture(scope="module")
def real() -> Iterator[RealCluster]:
    with real_cluster() as made:
        yield made


def test_answers_of_a_real_model_are_read_in_the_browser(
    real: RealCluster, open_page: OpenPage, faults: list[str]
) -> None:
    asked = [json.loads(line) for line in questions(ROWS, PACKAGED_MODEL.id)]
    asked[REJECTED]["body"]["temperature"] = -1
    page = open_page(real.connection.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Everything works")
    expect(page.locator(".engine .badge")).to_have_text("ready")
    submit(page, "real", "".join(json.dumps(line) + "\n" for line in asked).encode())

    state = page.locator(".batch-head .badge")
    expect(state).to_have_text("running")
    expect(state).to_have_text("completed", timeout=BATCH_MAX_S * 1000)
    done = page.locator(".batch-head + div .bar")
    expect(done).to_have_attribute("aria-label", f"{ROWS} of {ROWS} requests, 1 failed")

    table = page.get_by_role("grid", name="Results")
    expect(table).to_have_attribute("aria-rowcount", str(ROWS + 1))
    batch_id = page.url.split("#")[1].split("/")[2]
    rows = httpx.get(f"{real.connection.url}/v1/batches/{batch_id}/rows").json()["data"]
    assert [row["index"] for row in rows] == list(range(ROWS))
    assert rows[0]["completion_tokens"] > 0
    expect(table.locator("#row-0 .c-text")).to_have_text(rows[0]["text"])
    table.locator("#row-0").click()
    detail = page.get_by_label("One row")
    expect(detail.locator(".answer")).to_have_text(rows[0]["text"])
    expect(detail.locator("pre").first).to_contain_text(asked[0]["custom_id"])

    page.get_by_role("tab", name="Dead letters").click()
    expect(page.locator(".group")).to_have_count(1)
    expect(page.locator(".group")).to_contain_text("temperature")
    expect(page.locator(".group tbody th")).to_have_text(asked[REJECTED]["custom_id"])
    assert faults == []
