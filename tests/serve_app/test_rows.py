"""Rows a page at a time: every order and filter, while the batch runs, with the request beside the answer."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from raybatch.config import Home
from raybatch.core.model import ResultRow
from raybatch.storage import rows_page as rows_page_file
from raybatch.storage.parts import write_part
from raybatch.storage.rows_page import TEXT_SHOWN_CHARACTERS, RowQuery, rows_page
from tests.serve_app.local_scheduler import LocalScheduler
from tests.serve_app.requests import jsonl, output_line, request

LINES = [request(f"r{i}", **({"fail": 1} if i % 3 == 1 else {})) for i in range(40)]


@pytest.fixture
async def url(http: httpx2.AsyncClient) -> str:
    """Of a batch that is about to run."""
    created = await http.post("/v1/batches", files={"file": ("in.jsonl", jsonl(*LINES))})
    return f"/v1/batches/{created.json()['id']}"


async def page(http: httpx2.AsyncClient, url: str, **query: Any) -> dict[str, Any]:
    answer = await http.get(f"{url}/rows", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def indices(found: dict[str, Any]) -> list[int]:
    return [row["index"] for row in found["data"]]


async def test_pages_of_a_batch_that_runs_and_then_has_ended(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, url: str
) -> None:
    nothing = await page(http, url)
    assert (nothing["data"], nothing["total"], nothing["has_more"]) == ([], 0, False)
    scheduler.run_chores()
    for finished in (16, 40):
        scheduler.run_rows(16 if finished == 16 else 24)
        got: list[int] = []
        while True:
            found = await page(http, url, offset=len(got), limit=7)
            assert (found["total"], found["offset"]) == (finished, len(got))
            got += indices(found)
            if not found["has_more"]:
                break
        assert got == list(range(finished))
    assert indices(await page(http, url, offset=40)) == []
    assert (await page(http, url, offset=10**18))["total"] == 40


async def test_status_search_and_order(http: httpx2.AsyncClient, scheduler: LocalScheduler, url: str) -> None:
    scheduler.run_chores()
    scheduler.run_rows(16)
    scheduler.run_rows(24)
    failed = [i for i in range(40) if i % 3 == 1]
    assert indices(await page(http, url, status="failed")) == failed
    assert indices(await page(http, url, status="completed", sort="-index")) == [
        i for i in range(39, -1, -1) if i not in failed
    ]
    found = await page(http, url, search="R1", offset=1, limit=2)  # r1, r10 .. r19, whatever the case
    assert (indices(found), found["total"]) == ([10, 11], 11)
    assert indices(await page(http, url, search="NOPE")) == failed  # the error's code
    assert indices(await page(http, url, search="r2", status="failed", sort="-index")) == [28, 25, 22]
    assert (await page(http, url, search="[[", sort="tokens"))["total"] == 0  # no pattern, only text


async def test_finish_reason_and_length(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, url: str
) -> None:
    scheduler.run_chores()
    scheduler.run_rows(16)
    scheduler.run_rows(24)
    failed = [i for i in range(40) if i % 3 == 1]  # without an answer: no reason, no tokens
    answered = [i for i in range(40) if i % 3 != 1]
    assert indices(await page(http, url, finish_reason="stop")) == answered
    assert indices(await page(http, url, tokens_min=2)) == answered
    assert indices(await page(http, url, tokens_max=1)) == failed
    assert indices(
        await page(http, url, tokens_min=2, tokens_max=2, search="r1", sort="-index", limit=2)
    ) == [18, 17]
    for nothing in (
        {"finish_reason": "length"},
        {"finish_reason": ""},
        {"finish_reason": "st.*' OR 1=1 --"},
        {"finish_reason": "stop", "status": "failed"},
        {"tokens_min": 3},
        {"tokens_min": 2, "tokens_max": 1},
        {"tokens_min": (1 << 63) - 1},
    ):
        assert (await page(http, url, **nothing))["total"] == 0, nothing


async def test_rows_that_run_again_leave_the_table_until_they_have(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, url: str
) -> None:
    scheduler.run_chores()
    scheduler.run_rows(40)
    await http.post(f"{url}/retry", json={"custom_ids": ["r1", "r4"]})
    assert (await page(http, url))["total"] == 38
    scheduler.run_rows(2)
    found = await page(http, url)
    assert indices(found) == list(range(40))
    assert [found["data"][i]["status_code"] for i in (1, 4, 7)] == [200, 200, 400]


async def test_one_row_has_its_request_beside_its_answer(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, home: Home, url: str
) -> None:
    scheduler.run_chores()
    scheduler.run_rows(16)
    found = (await http.get(f"{url}/rows/3")).json()
    assert json.loads(found["request"]) == LINES[3]
    assert found["response"].encode() + b"\n" == output_line(3, LINES[3])
    for missing in (20, 40, -1, 10**30):  # not finished yet, or none
        answer = await http.get(f"{url}/rows/{missing}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "index")
    (upload,) = home.files.iterdir()
    upload.unlink()
    assert (await http.get(f"{url}/rows/3")).json()["request"] is None


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 501},
        {"offset": -1},
        {"sort": "text"},
        {"status": "lost"},
        {"search": "x" * 201},
        {"finish_reason": "x" * 101},
        {"tokens_min": -1},
        {"tokens_min": 1 << 63},
        {"tokens_max": "many"},
        {"tokens_max": "1e400"},
    ],
)
async def test_what_is_no_page_is_refused_by_name(
    http: httpx2.AsyncClient, url: str, query: dict[str, Any]
) -> None:
    answer = await http.get(f"{url}/rows", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))


async def test_a_page_of_a_finished_batch_reads_only_the_files_it_lies_in(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [
        write_part(home.root, "batch_1", f"p{n}", [result(n * 10 + i) for i in range(10)]) for n in range(9)
    ]
    opened: list[str] = []
    merged = rows_page_file.merged_batches

    def noted(root: Any, files: Any, columns: Any, *args: Any, **more: Any) -> Any:
        opened.extend(columns)
        return merged(root, files, columns, *args, **more)

    monkeypatch.setattr(rows_page_file, "merged_batches", noted)
    found = rows_page(home.root, parts, RowQuery(), offset=33, limit=9, batch_rows=90)
    assert [row["index"] for row in found.rows] == list(range(33, 42))
    assert opened.count("index") == 1  # nothing was looked for first

    opened.clear()
    slow = RowQuery(sort="-latency")
    first = rows_page(home.root, parts, slow, offset=0, limit=5, batch_rows=90)
    assert [row["latency_ms"] for row in first.rows] == [1090.0, 1089.0, 1088.0, 1087.0, 1086.0]
    assert opened.count("text") == 1  # the five lie in one file, and no other was read for them
    assert "line" not in opened
    opened.clear()
    again = rows_page(home.root, parts, slow, offset=5, limit=5, batch_rows=90)
    assert [row["index"] for row in again.rows] == [84, 83, 82, 81, 80]
    assert opened.count("index") == 1  # scrolling on looks for nothing anew


async def test_long_answers_are_cut_in_a_list_and_texts_stay_texts(home: Home) -> None:
    text = "<script>alert(1)</script>é" * 40
    part = write_part(home.root, "batch_1", "p", [result(0, text)])
    (row,) = rows_page(home.root, [part], RowQuery(search="ALERT(1)"), offset=0, limit=5).rows
    assert row["text"] == text[:TEXT_SHOWN_CHARACTERS]


def result(index: int, text: str = "ok") -> ResultRow:
    return ResultRow(
        position=index,
        index=index,
        custom_id=f"r{index}",
        status_code=200,
        error_code=None,
        error_message=None,
        model="m",
        text=text,
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        cached_tokens=0,
        line=json.dumps({"text": text}).encode(),
        attempt=1,
        engine_id="e",
        started_at=100.0,
        finished_at=101.0 + (index + 1) / 1000,
    )
